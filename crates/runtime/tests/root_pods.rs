//! Pods on real containers: terminals, attached clients, shared namespaces, seccomp, lost shims and
//! the CRI socket. Needs root.

mod support;

use std::time::Duration;

use skiff_base::Shutdown;
use skiff_runtime::cri::{self, ImageService, RuntimeService};
use skiff_runtime::{RemoteRuntime, serve_cri};
use support::{Bench, command, possible, script, security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Request;

async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    let read = async {
        while !text.contains(wanted) {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended after {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        text
    };
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} does not come"))
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal() {
    if !possible() {
        return;
    }
    let bench = Bench::start("tty").await;
    let pod = bench.sandbox("pod").await;
    let id = bench.run(&pod, command("c", &["sleep", "100"])).await;
    let mut streams = bench
        .runtime
        .exec_streams(&id, &["sh".into()], true, true)
        .await
        .unwrap();
    streams.resize.as_ref().unwrap().set(91, 17).unwrap();
    let stdin = streams.stdin.as_mut().unwrap();
    stdin.write_all(b"stty size; exit 6\n").await.unwrap();
    read_until(&mut streams.stdout, "17 91").await;
    assert_eq!(streams.exit.await.unwrap(), 6);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_reads_its_input_to_the_end() {
    if !possible() {
        return;
    }
    let bench = Bench::start("stdin").await;
    let pod = bench.sandbox("pod").await;
    let id = bench.run(&pod, command("c", &["sleep", "100"])).await;
    let mut streams = bench
        .runtime
        .exec_streams(&id, &["cat".into()], false, true)
        .await
        .unwrap();
    let sent = vec![b'x'; 1 << 20];
    let mut stdin = streams.stdin.take().unwrap();
    let expected = sent.clone();
    let writer = tokio::spawn(async move { stdin.write_all(&sent).await });
    let mut got = Vec::new();
    streams.stdout.read_to_end(&mut got).await.unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(got.len(), expected.len());
    assert_eq!(streams.exit.await.unwrap(), 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_attach_to_the_first_process() {
    if !possible() {
        return;
    }
    let mut bench = Bench::start("attach").await;
    let pod = bench.sandbox("pod").await;
    let mut config = script("c", "while read line; do echo \"got $line\"; done; exit 2");
    config.stdin = true;
    config.stdin_once = true;
    let id = bench.run(&pod, config).await;
    let mut first = bench
        .runtime
        .attach_streams(&id, true, true, true)
        .await
        .unwrap();
    first
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"one\n")
        .await
        .unwrap();
    read_until(&mut first.stdout, "got one\n").await;
    drop(first);
    // A server that comes back can attach again.
    bench.restart().await;
    let mut second = bench
        .runtime
        .attach_streams(&id, true, true, true)
        .await
        .unwrap();
    let mut stdin = second.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    read_until(&mut second.stdout, "got two\n").await;
    drop(stdin);
    bench.runtime.close_stdin(&id).await.unwrap();
    assert_eq!(bench.ended(&id).await.exit_code, 2);
    assert_eq!(second.exit.await.unwrap(), 2);
    assert_eq!(
        bench.log_lines("pod", "c"),
        ["stdout F got one", "stdout F got two"]
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_terminal() {
    if !possible() {
        return;
    }
    let bench = Bench::start("ttymain").await;
    let pod = bench.sandbox("pod").await;
    let mut config = script("c", "read line; echo \"[$line]\"; exit 1");
    config.tty = true;
    config.stdin = true;
    let id = bench.run(&pod, config).await;
    let mut streams = bench
        .runtime
        .attach_streams(&id, true, true, false)
        .await
        .unwrap();
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hi\n")
        .await
        .unwrap();
    read_until(&mut streams.stdout, "[hi]").await;
    assert_eq!(bench.ended(&id).await.exit_code, 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_share_processes_memory_and_names() {
    if !possible() {
        return;
    }
    let bench = Bench::start("shared").await;
    let mut config = bench.sandbox_config("pod");
    let shared = cri::NamespaceOption::default();
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options = Some(shared.clone());
    let pod = bench.sandbox_from(config).await;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let mut config = command(name, &["sleep", "12345"]);
        security(&mut config).namespace_options = Some(shared.clone());
        ids.push(bench.run(&pod, config).await);
    }
    let seen = bench.exec(&ids[0], &["ps"]).await.unwrap();
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert_eq!(text.matches("sleep 12345").count(), 2, "{text}");
    bench
        .exec(&ids[0], &["sh", "-c", "echo shared > /dev/shm/x"])
        .await
        .unwrap();
    let read = bench.exec(&ids[1], &["cat", "/dev/shm/x"]).await.unwrap();
    assert_eq!(read.stdout, b"shared\n");
    // What a container leaves running in the shared namespace ends with it.
    bench
        .exec(&ids[0], &["sh", "-c", "sleep 54321 >/dev/null 2>&1 &"])
        .await
        .unwrap();
    bench.stop(&ids[0], 0).await;
    let seen = bench.exec(&ids[1], &["ps"]).await.unwrap();
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(!text.contains("54321"), "{text}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seccomp_and_privileges() {
    if !possible() {
        return;
    }
    let bench = Bench::start("seccomp").await;
    let pod = bench.sandbox("pod").await;
    let report = "grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status";
    let mut config = script("filtered", report);
    let context = security(&mut config);
    context.seccomp = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
        localhost_ref: String::new(),
    });
    let id = bench.run(&pod, config).await;
    assert_eq!(bench.ended(&id).await.exit_code, 0);
    let log = bench.log("pod", "filtered");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    // The default capabilities, without the one that was needed for a moment.
    assert!(log.contains("CapEff:\t00000000a80425fb"), "{log}");
    assert!(log.contains("CapBnd:\t00000000a80425fb"), "{log}");

    let mut config = script(
        "privileged",
        "mount -t tmpfs x /tmp && ls /dev/null && echo fine",
    );
    security(&mut config).privileged = true;
    let id = bench.run(&pod, config).await;
    let status = bench.ended(&id).await;
    assert_eq!(status.exit_code, 0, "{}", bench.log("pod", "privileged"));

    let id = bench
        .run(&pod, script("plain", "mount -t tmpfs x /tmp"))
        .await;
    assert_ne!(bench.ended(&id).await.exit_code, 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shim_takes_its_pod_along() {
    if !possible() {
        return;
    }
    let bench = Bench::start("lost").await;
    let pod = bench.sandbox("pod").await;
    let id = bench.run(&pod, command("c", &["sleep", "100"])).await;
    let answer = bench
        .runtime
        .pod_sandbox_status(Request::new(cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: true,
        }))
        .await
        .unwrap()
        .into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let pid = info["pid"].as_i64().unwrap() as i32;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let status = bench.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let list = bench
        .runtime
        .list_pod_sandbox(Request::new(cri::ListPodSandboxRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.items[0].state(), cri::PodSandboxState::SandboxNotready);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_usage_and_events_over_the_socket() {
    if !possible() {
        return;
    }
    let bench = Bench::start("socket").await;
    let socket = bench.dir.join("cri.sock");
    let shutdown = Shutdown::new();
    let server = tokio::spawn({
        let (runtime, socket, shutdown) = (bench.runtime.clone(), socket.clone(), shutdown.clone());
        async move { serve_cri(runtime, &socket, shutdown).await }
    });
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let remote = RemoteRuntime::new(&socket);
    let version = remote
        .version(Request::new(cri::VersionRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(version.runtime_name, "skiff");
    let images = remote
        .list_images(Request::new(cri::ListImagesRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(images.images[0].repo_tags, [support::IMAGE]);
    let mut events = remote
        .get_container_events(Request::new(cri::GetEventsRequest {}))
        .await
        .unwrap()
        .into_inner();
    let pod = bench.sandbox("pod").await;
    let id = bench
        .run(
            &pod,
            script("c", "while :; do echo reply | nc -l -p 8080; done"),
        )
        .await;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&(cri::ContainerEventType::ContainerStartedEvent, id.clone())) {
        let event = futures::StreamExt::next(&mut events)
            .await
            .unwrap()
            .unwrap();
        kinds.push((event.container_event_type(), event.container_id));
    }
    let stats = remote
        .container_stats(Request::new(cri::ContainerStatsRequest {
            container_id: id.clone(),
        }))
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let mut stream = loop {
        match bench.runtime.port_forward(&pod, 8080).await {
            Ok(stream) => break stream,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable),
        }
    };
    read_until(&mut stream, "reply").await;
    shutdown.trigger();
    drop((remote, events));
    server.await.unwrap().unwrap();
    bench.finish().await;
}
