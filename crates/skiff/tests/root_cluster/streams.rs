//! exec, attach, port-forward, cp and logs -f, with the oldest and the newest kubectl that is installed: SPDY and WebSocket.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::pty::{Winsize, openpty};

use crate::cluster::{Cluster, cannot_run, eventually, fetch, text};

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: BUSYBOX, command: [sh, -c, 'mkdir /www; head -c 3000000 /dev/zero > /www/large; echo hello > /www/index.html; httpd -f -p 8000 -h /www']}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: BUSYBOX, stdin: true, command: [sh, -c, 'while read line; do echo got $line; done']}
";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kubectl of the PATH, and the oldest and newest of the versions that lie beside it, as Debian's package brings them.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    let found = places.find(|file| file.exists()).unwrap();
    let real = std::fs::canonicalize(&found).unwrap();
    let beside = std::fs::read_dir(real.parent().unwrap()).unwrap();
    let versioned = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("kubectl.1.")
    };
    let mut others: Vec<PathBuf> = beside.map(|entry| entry.unwrap().path()).collect();
    others.retain(versioned);
    others.sort();
    let mut all = vec![found];
    all.extend(others.first().cloned());
    all.extend(others.last().cloned());
    all.dedup();
    all
}

struct Client<'a> {
    program: PathBuf,
    cluster: &'a Cluster,
}

impl Client<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let config = self.cluster.data().join("admin.kubeconfig");
        command.args(arguments).env("KUBECONFIG", config);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let command = &mut self.command(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn start(&self, arguments: &[&str]) -> (Running, BufReader<ChildStdout>) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (Running(child), output)
    }

    fn exec(&self) {
        let script = "echo out; echo err >&2; exit 7";
        let output = self.run(&["exec", "shell", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(7), "{}", text(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("err\n"), "{errors}");
        assert!(
            errors.contains("command terminated with exit code 7"),
            "{errors}"
        );
        let output = self.run(&["exec", "shell", "--", "/no/such"]);
        assert!(!output.status.success());
        assert!(
            text(&output).contains("no such file or directory"),
            "{}",
            text(&output)
        );

        let (mut child, mut output) = self.start(&["exec", "-i", "shell", "--", "wc", "-c"]);
        let mut input = child.0.stdin.take().unwrap();
        input.write_all(&vec![b'x'; 1_000_000]).unwrap();
        drop(input);
        let mut counted = String::new();
        output.read_to_string(&mut counted).unwrap();
        assert_eq!(counted.trim(), "1000000");
    }

    /// A person's session: a terminal of a size, a prompt, an exit code.
    fn terminal(&self) {
        let size = Winsize {
            ws_row: 33,
            ws_col: 99,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = self.command(&["exec", "-it", "shell", "--", "sh"]);
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn();
        let mut child = Running(child.unwrap());
        drop(command);
        let mut person = File::from(pty.master);
        // The prompt comes first; the terminal's size may come after it.
        let mut seen = Vec::new();
        let mut read_until = |person: &mut File, what: &str| {
            let mut piece = [0; 1024];
            while !String::from_utf8_lossy(&seen).contains(what) {
                let count = person.read(&mut piece).unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&piece[..count]);
            }
        };
        read_until(&mut person, "# ");
        person
            .write_all(
                b"until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done; tty; echo si''ze\n",
            )
            .unwrap();
        read_until(&mut person, "/dev/pts/0");
        read_until(&mut person, "size");
        person.write_all(b"exit 3\n").unwrap();
        drop(pty.slave);
        assert_eq!(child.0.wait().unwrap().code(), Some(3));
    }

    fn attach(&self) {
        let (mut child, mut output) = self.start(&["attach", "-i", "echo"]);
        let input = child.0.stdin.as_mut().unwrap();
        let said = format!("{}", self.program.display());
        writeln!(input, "{said}").unwrap();
        let mut line = String::new();
        while !line.contains(&said) {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended early");
        }
        assert_eq!(line.trim(), format!("got {said}"));
    }

    fn port_forward(&self) {
        let (_child, mut output) = self.start(&["port-forward", "pod/shell", ":8000"]);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.strip_prefix("Forwarding from ").unwrap_or_default();
        let address = address.split(' ').next().unwrap_or_default().to_owned();
        let get = |path: &str| fetch(&address, path).unwrap_or_default();
        assert!(get("/").ends_with("hello\n"), "{line}");
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    let page = get("/large");
                    let (_, body) = page.split_once("\r\n\r\n").unwrap();
                    assert_eq!(body.len(), 3_000_000);
                });
            }
        });
        assert!(get("/").ends_with("hello\n"), "after many");
    }

    fn copy(&self) {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::create_dir_all(there.join("deep")).unwrap();
        std::fs::write(there.join("a"), "first").unwrap();
        let large: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(there.join("deep/b"), &large).unwrap();
        let (there, back) = (there.to_string_lossy(), folder.path().join("back"));
        let target = format!("shell:/tmp/{}", self.program.file_name().unwrap().display());
        let output = self.run(&["cp", &there, &target]);
        assert!(output.status.success(), "{}", text(&output));
        let output = self.run(&["cp", &target, &back.to_string_lossy()]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(std::fs::read_to_string(back.join("a")).unwrap(), "first");
        assert_eq!(std::fs::read(back.join("deep/b")).unwrap(), large);
    }

    fn follow(&self) {
        let pod = [
            "run",
            "talker",
            "--image=skiff.test/busybox:1",
            "--restart=Never",
        ];
        let script = [
            "--",
            "sh",
            "-c",
            "echo one; until [ -e /go ]; do sleep 0.1; done; echo two",
        ];
        let output = self.run(&[&pod[..], &script].concat());
        assert!(output.status.success(), "{}", text(&output));
        eventually("a pod that talks", || {
            let output = self.run(&["logs", "talker"]);
            output.stdout == b"one\n"
        });
        let (mut child, mut output) = self.start(&["logs", "-f", "talker"]);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "one\n");
        let output_of = self.run(&["exec", "talker", "--", "touch", "/go"]);
        assert!(output_of.status.success(), "{}", text(&output_of));
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "two\n");
        assert!(child.0.wait().unwrap().success());
        let output = self.run(&["delete", "pod", "talker", "--grace-period=0", "--force"]);
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn streams_of_old_and_new_kubectls() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("strea");
    cluster.import_busybox();
    eventually("the service account", || {
        let account = ["get", "serviceaccount", "default"];
        cluster.kubectl(&account).status.success()
    });
    cluster.make(PODS);
    cluster.until_ready("shell");
    cluster.until_ready("echo");
    for program in kubectls() {
        println!("with {}", program.display());
        let client = Client {
            program,
            cluster: &cluster,
        };
        client.exec();
        client.terminal();
        client.attach();
        client.port_forward();
        client.copy();
        client.follow();
    }
}
