//! `skiff up`: starts a server in the background and waits until it works.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::cli::ServerArguments;
use crate::config::{Config, Host, Options};
use crate::instance::Lock;
use crate::progress::READY;
use crate::say::say;
use crate::{checks, kubeconfig};

/// Starts, waits, adds the kubeconfig context, says what to try.
pub fn run(arguments: ServerArguments, demo: bool, no_kubeconfig: bool) -> Result<()> {
    let mut options = arguments.options.with_file(arguments.config.as_deref())?;
    let saved = options.data_dir().join("server.yaml");
    if arguments.config.is_none() && saved.exists() {
        // What an earlier `skiff up` was told holds until told otherwise.
        options = options.with_file(Some(&saved))?;
    }
    let config = options.clone().resolve(&Host::detect())?;
    if let Some(process) = Lock::is_held(&config.data_dir)? {
        say!(
            "Skiff runs already (process {process}, data in {}); see `skiff status`.",
            config.data_dir.display()
        );
    } else {
        checks::report(&checks::all(&config), false)?;
        start(&config, &options, &saved)?;
    }
    if demo {
        super::demo::run(&config)?;
    }
    if !no_kubeconfig {
        add_context(&config)?;
    }
    say!(
        "\nTry:\n  kubectl get nodes\n  kubectl create deployment hello --image=skiff.local/demo --replicas=3\n  kubectl expose deployment hello --port=80 --target-port=8080 --type=NodePort\n  skiff down          # stops everything again"
    );
    Ok(())
}

fn start(config: &Config, options: &Options, saved: &Path) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("making {}", config.data_dir.display()))?;
    crate::pki::write_private(saved, &serde_saphyr::to_string(&set_only(options)?)?)?;
    let log_path = config.data_dir.join("server.log");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("opening {}", log_path.display()))?;
    let already = log.metadata()?.len();
    say!(
        "Starting skiff {} in {}",
        super::version::TEXT,
        config.data_dir.display()
    );
    #[allow(
        clippy::disallowed_types,
        reason = "the server is this program again, in the background"
    )]
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(["server", "--progress", "--config"])
        .arg(saved)
        .arg("--data-dir")
        .arg(&config.data_dir)
        .current_dir("/")
        // Every thread with a heap of its own would keep what it once needed.
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting the server")?;
    let output = child.stdout.take().context("the server's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            say!("Ready after {:.2} s", started.elapsed().as_secs_f64());
            return Ok(());
        }
        let (milliseconds, what) = line.split_once(' ').unwrap_or(("", &line));
        say!("  {what:<44} {milliseconds:>6} ms");
    }
    let status = child.wait()?;
    let written = fs::read(&log_path).unwrap_or_default();
    let new = String::from_utf8_lossy(written.get(usize::try_from(already)?..).unwrap_or_default())
        .into_owned();
    let lines: Vec<&str> = new.lines().collect();
    for line in &lines[lines.len().saturating_sub(15)..] {
        eprintln!("  {line}");
    }
    bail!(
        "the server ended ({status}) before it was ready; its log is {}",
        log_path.display()
    )
}

/// The options that were given, without the nulls of the others.
fn set_only(options: &Options) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(options)?;
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    Ok(value)
}

fn add_context(config: &Config) -> Result<()> {
    let Some(path) = kubeconfig::users_file() else {
        return Ok(());
    };
    kubeconfig::merge_into(&path, &kubeconfig::read(&config.admin_kubeconfig())?)?;
    say!(
        "kubectl context {:?} is set in {}",
        config.cluster_name,
        path.display()
    );
    Ok(())
}
