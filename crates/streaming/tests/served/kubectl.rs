//! Every kubectl that is installed: old ones speak SPDY, newer ones WebSocket, and both can be told to.

#![allow(
    clippy::disallowed_types,
    reason = "kubectl is the judge of these protocols"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::server;

/// All `kubectl` and `kubectl.<version>` in the search path.
fn all_kubectls() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name == "kubectl" || name.starts_with("kubectl.1."))
        }));
    }
    if found.is_empty() {
        eprintln!("SKIPPED: no kubectl is installed");
    }
    found.sort();
    found
}

/// A way to start kubectl.
struct Kubectl {
    path: PathBuf,
    websocket: &'static str,
    address: SocketAddr,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websocket)
            .arg(format!("--server=http://{}", self.address))
            .arg("--request-timeout=20s")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command that ends before its input closes the pipe.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    fn name(&self) -> String {
        format!("{} websocket={}", self.path.display(), self.websocket)
    }
}

/// Runs a check with each kubectl, in both ways.
async fn with_each(check: fn(&Kubectl)) {
    let address = server::start().await;
    let checks = all_kubectls().into_iter().flat_map(|path| {
        ["true", "false"].map(|websocket| Kubectl {
            path: path.clone(),
            websocket,
            address,
            home: tempfile::tempdir().unwrap(),
        })
    });
    for kubectl in checks {
        tokio::task::spawn_blocking(move || check(&kubectl))
            .await
            .unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the program wrote to stderr. Of the empty message that says that all is set up (as upstream's servers send it) a busy
/// kubectl may say that it came before its stream was made.
fn errors(output: &std::process::Output) -> String {
    text(&output.stderr)
        .split_inclusive('\n')
        .filter(|line| !line.contains("Unknown stream id 1, discarding message"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec() {
    with_each(|kubectl| {
        let name = kubectl.name();
        let output = kubectl.run(&["exec", "web", "--", "hello"], b"");
        assert_eq!(
            text(&output.stdout),
            "out\n",
            "{name}: {}",
            text(&output.stderr)
        );
        assert_eq!(errors(&output), "err\n", "{name}");
        assert!(output.status.success(), "{name}");

        let output = kubectl.run(&["exec", "web", "--", "exit", "42"], b"");
        assert_eq!(output.status.code(), Some(42), "{name}");
        let expected = "command terminated with exit code 42\n";
        assert_eq!(errors(&output), expected, "{name}");

        let output = kubectl.run(&["exec", "web", "--", "fail"], b"");
        assert_eq!(output.status.code(), Some(1), "{name}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("no such thing"), "{name}: {stderr}");

        let input: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let output = kubectl.run(&["exec", "-i", "web", "--", "cat"], &input);
        assert!(
            output.stdout == input,
            "{name}: {} bytes",
            output.stdout.len()
        );
        assert!(output.status.success(), "{name}");

        let output = kubectl.run(&["exec", "-i", "web", "--", "line"], b"one\ntwo\n");
        assert_eq!(text(&output.stdout), "got one\n", "{name}");

        let output = kubectl.run(&["exec", "web", "--", "flood", "8"], b"");
        assert_eq!(output.stdout.len(), 8 << 20, "{name}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_forward() {
    with_each(|kubectl| {
        let name = kubectl.name();
        let mut child = kubectl
            .command(&["port-forward", "pod/web", ":7", ":80", ":81"])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < 3 {
            let Some(Ok(line)) = lines.next() else {
                let mut said = String::new();
                let _ = child.stderr.take().unwrap().read_to_string(&mut said);
                panic!("{name}: {said}")
            };
            if let Some(address) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                let (local, _) = address.split_once(' ').unwrap();
                ports.push(local.parse::<u16>().unwrap());
            }
        }
        let connect = |port: u16| {
            let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            socket
        };
        let mut echoes: Vec<_> = (0..5).map(|_| connect(ports[0])).collect();
        for (i, echo) in echoes.iter_mut().enumerate() {
            echo.write_all(format!("hello {i}").as_bytes()).unwrap();
        }
        for (i, echo) in echoes.iter_mut().enumerate() {
            let mut answer = [0; 7];
            echo.read_exact(&mut answer).unwrap();
            assert_eq!(text(&answer), format!("hello {i}"), "{name}");
        }
        for _ in 0..3 {
            let mut web = connect(ports[1]);
            web.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            web.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{name}");
            assert!(answer.len() > 300_000, "{name}: {}", answer.len());
        }
        let mut nobody = connect(ports[2]);
        let _ = nobody.write_all(b"x");
        let mut answer = Vec::new();
        let _ = nobody.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{name}");
        child.kill().unwrap();
        let said = text(&child.wait_with_output().unwrap().stderr);
        assert!(
            said.contains("connection refused at port 81"),
            "{name}: {said}"
        );
    })
    .await;
}
