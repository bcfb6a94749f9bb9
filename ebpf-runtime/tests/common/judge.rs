//! libbpf and the kernel behind it, asked about one program of an object file at a time.
//!
//! A small C program does the asking, in a network namespace with a device that programs can be bound to.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::debian::{Outcome, run};

/// What libbpf loaded.
pub struct Taken {
    /// Id of the program in the kernel.
    pub program: u32,
    /// Names and ids of the object's maps, as libbpf names them.
    pub maps: Vec<(String, u32)>,
}

/// The C program, running.
pub struct Judge {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Interface index of the namespace's veth.
    device: u32,
    _namespace: Namespace,
    _dir: tempfile::TempDir,
}

/// A network namespace with a veth pair, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Outcome<(Namespace, u32)> {
        let name = format!("mrjudge{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Namespace(name.clone());
        let ip = |args: &[&str]| run(Command::new("ip").args(["-n", &name]).args(args));
        ip(&["link", "add", "judge0", "type", "veth", "peer", "name", "judge1"])?;
        for device in ["lo", "judge0", "judge1"] {
            ip(&["link", "set", device, "up"])?;
        }
        let line = ip(&["-o", "link", "show", "judge0"])?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let index = line.split(':').next().and_then(|n| n.trim().parse().ok());
        Ok((made, index.ok_or("ip link shows no interface index")?))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

impl Judge {
    /// Compiles and starts it; `None`, and a line saying so, where that cannot be.
    pub fn start(test: &str) -> Option<Judge> {
        match Judge::try_start() {
            Ok(judge) => Some(judge),
            Err(why) => {
                println!("SKIP {test}: the kernel cannot be asked through libbpf ({why})");
                None
            }
        }
    }

    fn try_start() -> Outcome<Judge> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let binary = dir.path().join("judge");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/libbpf.c");
        run(Command::new("cc")
            .args(["-O1", "-o"])
            .arg(&binary)
            .arg(&source)
            .arg("-lbpf"))?;
        let (namespace, device) = Namespace::new()?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", &namespace.0])
            .arg(&binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("ip netns exec: {e}"))?;
        let answers = child.stdout.take().ok_or("no pipe")?;
        Ok(Judge {
            requests: child.stdin.take(),
            answers: BufReader::new(answers),
            child,
            device,
            _namespace: namespace,
            _dir: dir,
        })
    }

    /// Has a program of a file loaded, bound to a device if it wants that. What was loaded before is gone then.
    pub fn load(&mut self, file: &Path, program: &str) -> Result<Taken, String> {
        match self.ask(file, program, 0) {
            Err(why) if why.contains("require device-bound program") => self.ask(file, program, self.device),
            answer => answer,
        }
    }

    fn ask(&mut self, file: &Path, program: &str, device: u32) -> Result<Taken, String> {
        let requests = self.requests.as_mut().ok_or("the judge is gone")?;
        let said = writeln!(requests, "load\t{}\t{program}\t{device}", file.display());
        said.map_err(|e| format!("the judge is gone: {e}"))?;
        let mut answer = Vec::new();
        self.answers
            .read_until(b'\n', &mut answer)
            .map_err(|e| format!("the judge is gone: {e}"))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let mut fields = answer.trim_end_matches('\n').split('\t');
        match fields.next() {
            Some("ok") => {}
            Some("refused") => return Err(fields.collect::<Vec<_>>().join(" ")),
            _ => return Err("the judge is gone".into()),
        }
        let program = fields.next().and_then(|id| id.parse().ok());
        let maps = fields.filter_map(|f| {
            let (name, id) = f.rsplit_once(':')?;
            Some((name.to_owned(), id.parse().ok()?))
        });
        Ok(Taken {
            maps: maps.collect(),
            program: program.ok_or("the judge names no program")?,
        })
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}
