//! Images for the tests, made from what the machine has: there is no registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, run, text};

/// The name of the image that `import_busybox` makes.
pub const BUSYBOX: &str = "skiff.test/busybox:1";

fn must(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes a docker archive of one layer, `folder/root`, under the name `tag`, and tells where it is.
pub fn docker_archive(folder: &Path, tag: &str) -> PathBuf {
    must(
        Command::new("tar")
            .current_dir(folder)
            .args(["-C", "root", "-cf", "layer.tar", "."]),
    );
    let digest = must(
        Command::new("sha256sum")
            .arg("layer.tar")
            .current_dir(folder),
    );
    let digest = digest.split_whitespace().next().unwrap();
    let config = serde_json::json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let parts = ["manifest.json", "config.json", "layer.tar"];
    must(
        Command::new("tar")
            .current_dir(folder)
            .args(["-cf", "image.tar"])
            .args(parts),
    );
    folder.join("image.tar")
}

/// The root of a system that is a static busybox with all its applets.
pub fn busybox_root(folder: &Path) {
    let root = folder.join("root");
    for name in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in must(Command::new("/bin/busybox").arg("--list")).lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("/bin/busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    let users = "root:x:0:0:root:/:/bin/sh\nweb:x:101:102:web:/:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), users).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\n").unwrap();
}

impl Cluster {
    /// Gives the node the image `BUSYBOX`.
    pub fn import_busybox(&self) {
        let folder = tempfile::tempdir().unwrap();
        busybox_root(folder.path());
        let archive = docker_archive(folder.path(), BUSYBOX);
        let output = self.skiff(&["image", "import", &archive.to_string_lossy()]);
        assert!(output.status.success(), "{}", text(&output));
    }
}
