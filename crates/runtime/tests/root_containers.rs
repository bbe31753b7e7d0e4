//! Real containers: start, logs, exit codes, exec, stop, and what is left afterwards. Needs root.

mod support;

use skiff_runtime::cri;
use support::{Bench, command, possible, script, security};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_and_ends() {
    if !possible() {
        return;
    }
    let bench = Bench::start("basic").await;
    let pod = bench.sandbox("one").await;
    let id = bench
        .run(
            &pod,
            script("c", "echo hello; echo oops >&2; hostname; exit 3"),
        )
        .await;
    let status = bench.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    let mut lines = bench.log_lines("one", "c");
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F hello", "stdout F one"]);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_not_exist() {
    if !possible() {
        return;
    }
    let bench = Bench::start("missing").await;
    let pod = bench.sandbox("pod").await;
    for (name, program, reason) in [
        (
            "a",
            "nothing",
            r#"exec: "nothing": executable file not found in $PATH"#,
        ),
        (
            "b",
            "/nothing",
            r#"exec: "/nothing": stat /nothing: no such file or directory"#,
        ),
        ("c", "/plain", r#"exec: "/plain": permission denied"#),
    ] {
        let id = bench.create(&pod, command(name, &[program])).await.unwrap();
        let error = bench.start_container(&id).await.unwrap_err();
        assert!(error.message().contains(reason), "{error}");
        let status = bench.status(&id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (128, "StartError")
        );
        assert!(status.message.contains(reason));
    }
    let id = bench.run(&pod, command("d", &["sleep", "100"])).await;
    let error = bench.exec(&id, &["nothing"]).await.unwrap_err();
    assert!(
        error
            .message()
            .contains(r#"exec: "nothing": executable file not found in $PATH"#),
        "{error}"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_stop() {
    if !possible() {
        return;
    }
    let bench = Bench::start("exec").await;
    let pod = bench.sandbox("pod").await;
    let id = bench
        .run(
            &pod,
            script(
                "c",
                "trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done",
            ),
        )
        .await;
    let answer = bench
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"])
        .await
        .unwrap();
    assert_eq!(answer.stdout, b"out\n");
    assert_eq!(answer.stderr, b"err\n");
    assert_eq!(answer.exit_code, 5);
    let late = bench
        .exec_within(&id, &["sleep", "60"], 1)
        .await
        .unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    bench.stop(&id, 10).await;
    let status = bench.status(&id).await;
    assert_eq!(status.exit_code, 7);
    assert_eq!(bench.log_lines("pod", "c"), ["stdout F bye"]);
    let stubborn = bench
        .run(
            &pod,
            script("s", "trap '' TERM; while :; do sleep 0.1; done"),
        )
        .await;
    bench.stop(&stubborn, 1).await;
    assert_eq!(bench.status(&stubborn).await.exit_code, 137);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_limits_kill() {
    if !possible() {
        return;
    }
    let bench = Bench::start("oom").await;
    let pod = bench.sandbox("pod").await;
    let mut config = command(
        "c",
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"],
    );
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_shares: 512,
        cpu_quota: 100_000,
        cpu_period: 100_000,
        oom_score_adj: 1000,
        ..Default::default()
    });
    let id = bench.run(&pod, config).await;
    let status = bench.ended(&id).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_finds_its_containers() {
    if !possible() {
        return;
    }
    let mut bench = Bench::start("restart").await;
    let pod = bench.sandbox("pod").await;
    let long = bench
        .run(
            &pod,
            script("long", "while :; do echo tick; sleep 0.1; done"),
        )
        .await;
    let short = bench.run(&pod, script("short", "sleep 0.5; exit 9")).await;
    let waiting = bench
        .create(&pod, script("waiting", "exit 4"))
        .await
        .unwrap();
    let before = bench.status(&long).await;
    bench.restart().await;
    let after = bench.status(&long).await;
    assert_eq!(after.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(after.started_at, before.started_at);
    assert_eq!(bench.ended(&short).await.exit_code, 9);
    bench.start_container(&waiting).await.unwrap();
    assert_eq!(bench.ended(&waiting).await.exit_code, 4);
    let answer = bench.exec(&long, &["echo", "again"]).await.unwrap();
    assert_eq!(answer.stdout, b"again\n");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_and_rights() {
    if !possible() {
        return;
    }
    let bench = Bench::start("users").await;
    let pod = bench.sandbox("pod").await;
    let mut config = script(
        "c",
        "id -u; id -g; id -G; pwd; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; touch /x || echo read-only",
    );
    config.working_dir = "/made/for/it".into();
    let security = security(&mut config);
    security.run_as_username = "web".into();
    security.supplemental_groups = vec![4000];
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    let id = bench.run(&pod, config).await;
    assert_eq!(
        bench.ended(&id).await.exit_code,
        0,
        "{}",
        bench.log("pod", "c")
    );
    let lines = bench.log_lines("pod", "c");
    let out: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("stdout F "))
        .collect();
    assert_eq!(out[..2], ["101", "102"]);
    assert_eq!(out[2], "102 103 4000");
    assert_eq!(out[3], "/made/for/it");
    assert_eq!(out[4], "CapEff:\t0000000000000000");
    assert_eq!(out[5], "NoNewPrivs:\t1");
    assert_eq!(out[6], "read-only");
    bench.finish().await;
}
