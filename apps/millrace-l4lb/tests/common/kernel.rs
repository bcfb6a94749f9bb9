//! The Linux kernel, through `kernel_oracle.c` and libbpf.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use millrace_l4lb::dataplane::{TableError, Tables};

use super::Engine;

struct Pipe {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pipe {
    fn answer(&mut self) -> Result<Vec<String>, String> {
        let mut line = String::new();
        self.from
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("ok") => Ok(words.collect()),
            Some(_) => Err(words.collect::<Vec<_>>().join(" ")),
            None => Err("the oracle ended".into()),
        }
    }

    fn ask(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.to
            .write_all(line.as_bytes())
            .and_then(|()| self.to.write_all(b"\n"))
            .map_err(|e| e.to_string())?;
        self.to.flush().map_err(|error| error.to_string())?;
        self.answer()
    }
}

pub struct Kernel {
    tables: Arc<KernelTables>,
}

pub struct KernelTables(Mutex<Pipe>);

/// The oracle and the object as files, made once a test binary.
fn files() -> Result<(PathBuf, PathBuf), String> {
    static FILES: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    let make = || {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let (object, oracle) = (folder.join("l4lb.bpf.o"), folder.join("kernel_oracle"));
        std::fs::write(&object, millrace_l4lb::OBJECT).map_err(|error| error.to_string())?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel_oracle.c");
        let status = Command::new("cc")
            .args(["-O1", source, "-lbpf", "-o"])
            .arg(&oracle)
            .status();
        match status {
            Ok(status) if status.success() => Ok((oracle, object)),
            Ok(_) => Err("cc cannot build kernel_oracle.c (libbpf-dev?)".into()),
            Err(error) => Err(format!("cc: {error}")),
        }
    };
    FILES.get_or_init(make).clone()
}

impl Kernel {
    pub fn new() -> Result<Kernel, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("loading into the kernel needs root".into());
        }
        let (oracle, object) = files()?;
        let mut child = Command::new(oracle)
            .arg(object)
            .args(["flows", "400000"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let to = child.stdin.take().ok_or("no stdin")?;
        let from = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut pipe = Pipe { child, to, from };
        match pipe.answer() {
            Ok(_) => Ok(Kernel {
                tables: Arc::new(KernelTables(Mutex::new(pipe))),
            }),
            // A program that the kernel refuses is a failure, a kernel without BPF is not.
            Err(why) if why.contains("not permitted") || why.contains("not implemented") => Err(why),
            Err(why) => panic!("the kernel does not take the program: {why}"),
        }
    }
}

impl Engine for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn tables(&self) -> Arc<dyn Tables> {
        self.tables.clone()
    }

    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        let answer = self
            .tables
            .0
            .lock()
            .expect("no panic before")
            .ask(&format!("run {}", hex(frame)));
        let words = answer.expect("the kernel runs the program");
        (words[0].parse().expect("a verdict"), unhex(&words[1]))
    }
}

impl KernelTables {
    fn ask(&self, map: &str, line: &str) -> Result<Vec<String>, TableError> {
        self.0
            .lock()
            .expect("no panic before")
            .ask(line)
            .map_err(|why| TableError { map: map.into(), why })
    }
}

fn absent(error: &TableError) -> bool {
    error.why.contains("No such file")
}

impl Tables for KernelTables {
    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.ask(map, &format!("update {map} {} {}", hex(key), hex(value)))
            .map(drop)
    }

    fn lookup(&self, map: &str, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.ask(map, &format!("lookup {map} {}", hex(key))) {
            Ok(words) => Ok(Some(unhex(&words[0]))),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lookup_percpu(&self, map: &str, key: &[u8]) -> Result<Vec<Vec<u8>>, TableError> {
        Ok(self
            .ask(map, &format!("lookup {map} {}", hex(key)))?
            .iter()
            .map(|word| unhex(word))
            .collect())
    }

    fn delete(&self, map: &str, key: &[u8]) -> Result<(), TableError> {
        match self.ask(map, &format!("delete {map} {}", hex(key))) {
            Err(error) if !absent(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.is_empty() {
        return "-".into();
    }
    let pair = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]].map(char::from);
    bytes.iter().flat_map(pair).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).expect("hex") as u8;
    match text {
        "-" => Vec::new(),
        _ => text
            .as_bytes()
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect(),
    }
}
