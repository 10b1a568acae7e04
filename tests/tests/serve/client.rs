//! The API client from PyPI: installed once into a directory of the tests, and run on hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::lab::Host;

/// What is installed. Clients of that kind are not changed for us.
const PACKAGES: [&str; 2] = ["proxmoxer==2.3.0", "requests==2.34.2"];

pub struct Client {
    python: PathBuf,
}

impl Client {
    /// Installs it. Without PyPI, says so on stderr; with `PMXCFS_TEST_ALL` that is a failure.
    pub fn install() -> Option<Self> {
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("api-client");
        let python = venv.join("bin/python3");
        let done = venv.join(PACKAGES.join("+"));
        let lock = fs::File::create(venv.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        if done.exists() {
            return Some(Self { python });
        }
        drop(fs::remove_dir_all(&venv));
        let path = venv.to_str().unwrap();
        let pip = python.to_str().unwrap();
        let mut install = vec!["-m", "pip", "install", "--quiet", "--retries", "1"];
        install.extend(PACKAGES);
        let is_there = run("python3", &["-m", "venv", path]) && run(pip, &install);
        if is_there {
            fs::write(done, "").unwrap();
            return Some(Self { python });
        }
        let text = format!(
            "this needs {} of PyPI, and python3-venv",
            PACKAGES.join(" and ")
        );
        assert!(std::env::var_os("PMXCFS_TEST_ALL").is_none(), "{text}");
        eprintln!("left out: {text}");
        None
    }

    /// Runs a script of this directory on a host; it has to succeed.
    pub fn run(&self, host: &Host, script: &str, args: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/serve")
            .join(script);
        let mut command = format!("{} {}", self.python.display(), script.display());
        for arg in args {
            command += &format!(" '{}'", arg.replace('\'', r"'\''"));
        }
        let output = host.sh(&command).unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
