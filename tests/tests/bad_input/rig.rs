//! Runs a program that should fail, and looks at how it did.

use millrace_tests::process::{Process, sibling};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest any program may take to see its mistake, on a machine busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Longest a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A user and group that nobody is.
const STRANGER: &str = "65533";
/// A device that is always to be had.
pub const NULL: &str = "model:ixgbe?wire=null&queues=2";

/// A balancer's file that is right.
pub const RIGHT: &str = r#"[balancer]
max_vips = 4
connection_table = 4096
[[vip]]
name = "web"
address = "10.66.0.100"
port = 80
protocol = "tcp"
mode = "l2"
health = { type = "none" }
backend = [{ address = "10.66.0.11" }, { address = "10.66.0.12", weight = 3 }]
"#;

pub fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
}

/// Starts a program as somebody whom nobody knows.
fn stranger(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        STRANGER,
        "--regid",
        STRANGER,
        "--clear-groups",
        program,
    ]);
    command
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A folder for sockets and files, in which nothing that a failed program made may stay.
pub struct Rig {
    dir: TempDir,
    runs: AtomicU32,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Strangers may look in, so that it is not this folder that keeps them out.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod");
        let rig = Rig {
            dir,
            runs: AtomicU32::new(0),
        };
        rig.open("run", 0o755);
        rig
    }

    /// Makes a folder; whatever the umask, its mode is this.
    pub fn open(&self, name: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        path
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// Writes a file that everybody may read; gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("it can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        path
    }

    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = sibling(program).expect("the programs are built");
        self.prepare(Command::new(path), args)
    }

    /// The same, run by nobody in particular from a copy that everybody may read.
    pub fn command_of_a_stranger(&self, program: &str, args: &[&str]) -> Command {
        let copy = self.path(program);
        if !Path::new(&copy).exists() {
            // Copied by another process: a file that this one has open for writing could not be run while a child
            // that some other test is just starting still holds the same descriptor (ETXTBSY).
            let program = sibling(program).expect("the programs are built");
            let copied = Command::new("install")
                .arg("-m755")
                .arg(program)
                .arg(&copy)
                .status();
            assert!(copied.expect("install").success());
        }
        self.prepare(stranger(&copy), args)
    }

    /// Whether this process can become somebody else, who can read what is in this folder.
    pub fn lets_strangers_in(&self) -> Result<(), String> {
        let file = self.file("open-to-all", "");
        let ended = self.run(self.prepare(stranger("cat"), &[&file]));
        match ended.status.success() {
            true => Ok(()),
            false => Err(ended.stderr.trim().to_owned()),
        }
    }

    pub fn prepare(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .env("MILLRACE_RUN_DIR", self.path("run"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Starts a program that will run for a while; its output goes to `NAME.log`.
    pub fn start(&self, name: &str, mut command: Command) -> Process {
        let log = File::create(self.path(&format!("{name}.log"))).expect("a log");
        command
            .stdout(log.try_clone().expect("the log, again"))
            .stderr(log);
        Process::spawn(name, command).expect("it starts")
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Runs a program to its end; one that takes too long is killed and fails the test.
    pub fn run(&self, mut command: Command) -> Ended {
        let n = self.runs.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("{n}.out")), self.path(&format!("{n}.err")));
        command
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&err).expect("a file"));
        let what = format!("{command:?}");
        let read = |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let mut process = Process::spawn("it", command).expect("it starts");
        let Some(status) = process.wait(LIMIT) else {
            process.kill();
            panic!("{what} does not end within {LIMIT:?}; so far: {}", read(&err));
        };
        Ended {
            status,
            stdout: read(&out),
            stderr: read(&err),
        }
    }

    /// Runs a program that has to fail; gives the line that says why. All `says` must be in it.
    pub fn refuses(&self, program: &str, command: Command, says: &[&str]) -> String {
        let before = self.traces();
        let what = format!("{command:?}");
        let ended = self.run(command);
        let line = complaint(program, &what, &ended);
        for words in says {
            assert!(line.contains(words), "{what}: `{words}` is not in: {line}");
        }
        let start = Instant::now();
        while self.traces() != before {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{what} left something behind: {:?}, before: {before:?}",
                self.traces()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        line
    }

    /// Runs a program that has to succeed; gives its output.
    pub fn succeeds(&self, command: Command) -> String {
        let what = format!("{command:?}");
        let ended = self.run(command);
        assert!(ended.status.success(), "{what}: {}", ended.stderr);
        ended.stdout
    }

    /// Sockets in this folder and processes that were told about it.
    pub fn traces(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in [self.dir.path().to_owned(), PathBuf::from(self.path("run"))] {
            for entry in fs::read_dir(folder).expect("the folder").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                    found.insert(entry.path().to_string_lossy().into_owned());
                }
            }
        }
        let ours = self.dir.path().to_string_lossy();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&*ours) {
                found.insert(line);
            }
        }
        found
    }
}

/// The one line of a program that has failed as it should.
pub fn complaint(program: &str, what: &str, ended: &Ended) -> String {
    let text = &ended.stderr;
    let code = ended.status.code();
    assert!(!text.contains("panicked"), "{what}: {text}");
    assert!(
        !text.contains('\x1b'),
        "{what}: colours in what is not a terminal: {text}"
    );
    if code == Some(2) {
        // A wrong command line: clap adds how it should look.
        let line = text.lines().next().unwrap_or_default();
        assert!(
            line.starts_with("error: ") || line.starts_with("usage: "),
            "{what}: {text}"
        );
        return text.replace('\n', " ");
    }
    assert_eq!(code, Some(1), "{what}: {:?}: {text}", ended.status);
    let (logged, said): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| is_logged(line));
    assert_eq!(said.len(), 1, "{what} says one line besides {logged:?}: {text}");
    assert_eq!(text.lines().last(), said.first().copied(), "{what}: {text}");
    assert!(said[0].starts_with(&format!("{program}: ")), "{what}: {text}");
    said[0].to_owned()
}

/// A line of the log: a time and a level come first.
fn is_logged(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    time.starts_with("20")
        && time.ends_with('Z')
        && matches!(words.next(), Some("INFO" | "WARN" | "ERROR" | "DEBUG"))
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An XDP object made of C; `None` where there is no clang.
pub fn object(rig: &Rig, name: &str, source: &str) -> Option<Vec<u8>> {
    let (from, to) = (rig.file(&format!("{name}.c"), source), rig.path(name));
    for clang in ["clang-19", "clang"] {
        let done = Command::new(clang)
            .args(["-O2", "-g", "-target", "bpf", "-c", &from, "-o", &to])
            .output();
        if let Ok(done) = done {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            return Some(fs::read(&to).expect("the object"));
        }
    }
    None
}

/// A program that is right.
pub const PASS: &str = r#"__attribute__((section("xdp"), used)) int pass(void *ctx) { return 2; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"#;

/// A program that calls a helper which no kernel has.
pub const UNKNOWN_HELPER: &str = r#"static long (*nobody_has_this)(void) = (void *)9999;
__attribute__((section("xdp"), used)) int wants(void *ctx) { return nobody_has_this(); }
char _license[] __attribute__((section("license"), used)) = "GPL";
"#;
