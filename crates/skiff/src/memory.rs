//! How the process keeps memory that it has given back to the allocator.

/// Each processor has an arena of its own, and what is free goes back to the kernel early. By default glibc makes eight arenas
/// for each processor; each keeps holes of its own, and the server held three times what it used after a crowd of pods had
/// come and gone. With fewer than one each, the threads of the runtime wait for each other whenever they allocate: half an arena
/// took a third off a GET's rate and of that of pods made and bound, and saved two megabytes.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    {
        const TRIM_ABOVE: libc::c_int = 1 << 20;
        const MAP_ABOVE: libc::c_int = 128 << 10;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(processors).unwrap_or(1);
        for (parameter, value) in [
            (libc::M_ARENA_MAX, arenas),
            (libc::M_TRIM_THRESHOLD, TRIM_ABOVE),
            (libc::M_MMAP_THRESHOLD, MAP_ABOVE),
        ] {
            // SAFETY: sets a number within the allocator; called before any other thread exists.
            #[allow(unsafe_code, reason = "no safe interface to the allocator's settings")]
            unsafe {
                libc::mallopt(parameter, value);
            }
        }
    }
}
