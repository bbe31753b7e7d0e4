//! The last step in a new container process: find the program, install seccomp, `execve`.
//!
//! libcontainer calls this inside the container, after it has set up namespaces, root file system,
//! user and capabilities. What goes wrong is written to a pipe, in the words that runc uses: users
//! and tools know them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;

use super::protocol::CapabilityMasks;

/// One instruction of a seccomp program, as the kernel takes it.
const INSTRUCTION: usize = 8;

/// Starts the process that the OCI description names.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Where errors are written to. It closes on `execve`, which tells the reader that all is well.
    pub report: RawFd,
    /// A seccomp program to install.
    pub seccomp: Option<Vec<u8>>,
    /// Capabilities to drop to after that.
    pub capabilities: Option<CapabilityMasks>,
    /// `HOME`, which libcontainer looks up in the container's `/etc/passwd`.
    pub home: RefCell<Option<String>>,
}

impl Launcher {
    #[allow(unsafe_code)]
    fn report(&self, message: &str) {
        // SAFETY: the descriptor stays open for as long as this process has not executed the
        // program; `ManuallyDrop` leaves closing it to `execve`.
        let mut pipe = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(self.report) });
        // Nobody is left to tell when the pipe is gone.
        let _ = pipe.write_all(message.as_bytes());
    }
}

impl Executor for Launcher {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, env) = command(spec);
        find(&args, &env).map(drop).map_err(|message| {
            self.report(&message);
            ExecutorValidationError::ArgValidationError(message)
        })
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes to `execve` as the description has it: order and duplicates stay.
        *self.home.borrow_mut() = envs.get("HOME").cloned();
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, mut env) = command(spec);
        if !env.iter().any(|entry| entry.starts_with("HOME="))
            && let Some(home) = &*self.home.borrow()
        {
            env.push(format!("HOME={home}"));
        }
        let outcome = find(&args, &env).and_then(|program| {
            if let Some(filter) = &self.seccomp {
                install_seccomp(filter)
                    .map_err(|errno| format!("cannot install the seccomp profile: {errno}"))?;
            }
            if let Some(masks) = &self.capabilities {
                drop_capabilities(masks)
                    .map_err(|errno| format!("cannot drop capabilities: {errno}"))?;
            }
            let errno = execute(&program, &args, &env)?;
            Err(format!(
                "exec {}: {}",
                quoted(&program.to_string_lossy()),
                describe(errno)
            ))
        });
        let message = match outcome {
            Ok(()) => String::new(),
            Err(message) => message,
        };
        self.report(&message);
        Err(ExecutorError::Other(message))
    }
}

fn command(spec: &Spec) -> (Vec<String>, Vec<String>) {
    let process = spec.process().as_ref();
    (
        process.and_then(|p| p.args().clone()).unwrap_or_default(),
        process.and_then(|p| p.env().clone()).unwrap_or_default(),
    )
}

/// The file to execute, looked up as `execvp` does it, with the error that runc gives.
fn find(args: &[String], env: &[String]) -> Result<PathBuf, String> {
    let Some(name) = args.first() else {
        return Err("no command specified".into());
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return check(&path)
            .map(|()| path)
            .map_err(|reason| format!("exec: {}: {reason}", quoted(name)));
    }
    let search = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let found = search
        .split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .find(|path| check(path).is_ok());
    found.ok_or_else(|| format!("exec: {}: executable file not found in $PATH", quoted(name)))
}

fn check(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        let reason = error
            .raw_os_error()
            .map_or_else(|| error.to_string(), |code| describe(Errno::from_raw(code)));
        format!("stat {}: {reason}", path.display())
    })?;
    if metadata.is_dir() {
        return Err("is a directory".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("permission denied".into());
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The error's text as C and Go programs print it: in lower case.
fn describe(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

fn execute(program: &Path, args: &[String], env: &[String]) -> Result<Errno, String> {
    let texts = |list: &[String]| {
        list.iter()
            .map(|text| CString::new(text.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "exec: a NUL byte in an argument or variable".to_owned())
    };
    let path = CString::new(program.as_os_str().as_encoded_bytes())
        .map_err(|_| "exec: a NUL byte in the program's name".to_owned())?;
    match nix::unistd::execve(&path, &texts(args)?, &texts(env)?) {
        Ok(never) => match never {},
        Err(errno) => Ok(errno),
    }
}

#[allow(unsafe_code)]
fn install_seccomp(filter: &[u8]) -> Result<(), Errno> {
    let count = u16::try_from(filter.len() / INSTRUCTION).map_err(|_| Errno::E2BIG)?;
    // Eight-byte words keep the alignment that the kernel's structure asks for.
    let words: Vec<u64> = filter
        .as_chunks::<INSTRUCTION>()
        .0
        .iter()
        .map(|chunk| u64::from_ne_bytes(*chunk))
        .collect();
    let program = libc::sock_fprog {
        len: count,
        filter: words.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `program` points to `count` instructions that live until the call returns; the
    // kernel copies and checks them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    Errno::result(result).map(drop)
}

#[allow(unsafe_code)]
fn drop_capabilities(masks: &CapabilityMasks) -> Result<(), Errno> {
    for capability in 0..64u64 {
        if masks.bounding & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: prctl with plain numbers.
        let result =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
        match Errno::result(result) {
            // Past the last capability that the kernel knows.
            Err(Errno::EINVAL) => break,
            other => drop(other?),
        }
    }
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (masks.permitted >> shift) as u32,
        permitted: (masks.permitted >> shift) as u32,
        inheritable: (masks.ambient >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the interface takes one header and two data blocks; both live here.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result)?;
    for capability in (0..64).filter(|bit| masks.ambient & (1u64 << bit) != 0) {
        // SAFETY: prctl with plain numbers.
        let result = unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                capability as libc::c_ulong,
                0,
                0,
            )
        };
        Errno::result(result)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_text(args: &[&str], env: &[&str]) -> Result<PathBuf, String> {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        find(&strings(args), &strings(env))
    }

    #[test]
    fn errors_are_runcs() {
        assert_eq!(
            find_text(&["no-such-program"], &["PATH=/bin:/usr/bin"]).unwrap_err(),
            r#"exec: "no-such-program": executable file not found in $PATH"#
        );
        assert_eq!(
            find_text(&["/no/such"], &[]).unwrap_err(),
            r#"exec: "/no/such": stat /no/such: no such file or directory"#
        );
        assert_eq!(
            find_text(&["/etc"], &[]).unwrap_err(),
            r#"exec: "/etc": is a directory"#
        );
        assert_eq!(
            find_text(&["/etc/passwd"], &[]).unwrap_err(),
            r#"exec: "/etc/passwd": permission denied"#
        );
        assert_eq!(find_text(&[], &[]).unwrap_err(), "no command specified");
    }

    #[test]
    fn the_last_path_variable_counts() {
        assert_eq!(
            find_text(&["sh"], &["PATH=/nowhere", "PATH=/nowhere:/bin"]).unwrap(),
            PathBuf::from("/bin/sh")
        );
    }
}
