//! Coming, going, waiting: sockets, clients one after the other, processes that die.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use millrace_nic_models::device::exerciser::{self, *};
use millrace_nic_models::vfio_user::server::{Options, ServeError, Server, serve_connected};
use millrace_nic_models::vfio_user::wire::*;
use rustix::event::{EventfdFlags, eventfd};

use crate::Rig;
use crate::client::{Client, memfd};

const EVENT: u32 = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER;

#[test]
fn a_second_client_is_turned_away_and_the_first_goes_on() {
    let rig = Rig::new();
    let mut first = rig.client();
    for _ in 0..5 {
        let mut second = Client::silent(rig.connect());
        let refusal = second.receive();
        assert_eq!(
            (refusal.header.command, refusal.errno()),
            (Command::Version as u16, libc::EBUSY)
        );
        assert!(second.is_closed());
        assert_eq!(first.read32(0, exerciser::ID), ID_VALUE);
    }
    // Also while the model is busy.
    first.write32(0, CONTROL, 1);
    let mut second = Client::silent(rig.connect());
    assert_eq!(second.receive().errno(), libc::EBUSY);
    drop(first);
    rig.client();
}

#[test]
fn the_next_client_finds_a_device_after_reset() {
    let rig = Rig::new();
    let memory = memfd(0x1000, true);
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let mut first = rig.client();
    first.write32(0, SCRATCH, 99);
    first.bus_master(true);
    first.dma_map(memory.as_fd(), 0, 0x1000, 0x1000).accepted();
    first.set_irqs(EVENT, IRQ_MSIX, 0, 1, &[&fd]).accepted();
    drop(first);
    let mut next = rig.client();
    assert_eq!(next.read32(0, SCRATCH), 0);
    assert_eq!(next.read(7, 4, 2), [0, 0], "bus mastering is off again");
    next.write32(0, RAISE, 0);
    assert_eq!(rustix::io::read(&fd, &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
    // The same address can be mapped: nothing of the old mapping is left.
    next.dma_map(memory.as_fd(), 0, 0x1000, 0x1000).accepted();
}

#[test]
fn a_doorbell_in_a_mapped_page_needs_no_message() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    client.set_irqs(EVENT, IRQ_MSIX, 5, 1, &[&fd]).accepted();
    std::thread::sleep(Duration::from_millis(20)); // until the model sleeps
    client.write(2, DOORBELL, &6u32.to_ne_bytes()).accepted();
    let began = Instant::now();
    while rustix::io::read(&fd, &mut [0; 8]).is_err() {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::yield_now();
    }
    assert_eq!(client.read32(2, DOORBELL), 0);
}

#[test]
fn a_connected_socket_is_served_until_its_client_goes() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(|| {
        let mut model = Exerciser::new().unwrap();
        serve_connected(theirs, &mut model, &Options::default(), &AtomicBool::new(false)).unwrap();
    });
    let mut client = Client::new(ours);
    assert_eq!(client.read32(0, exerciser::ID), ID_VALUE);
    drop(client);
    server.join().unwrap();
}

#[test]
fn once_means_once() {
    let rig = Rig::with(Options {
        once: true,
        ..Options::default()
    });
    let mut client = rig.client();
    assert_eq!(client.read32(0, exerciser::ID), ID_VALUE);
    drop(client);
    let began = Instant::now();
    while rig.path.exists() {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(ServeError::InUse { .. })));
    drop(server);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path), Err(ServeError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let nowhere = dir.path().join("no/such/folder");
    assert!(matches!(Server::bind(&nowhere), Err(ServeError::Bind { .. })));
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(Server::bind(&long), Err(ServeError::Bind { .. })));
}

/// A `nic-model` process, killed when dropped.
struct NicModel {
    child: Child,
    socket: PathBuf,
}

impl NicModel {
    fn start(socket: &Path, more: &[&str]) -> NicModel {
        let child = Process::new(env!("CARGO_BIN_EXE_nic-model"))
            .args(["exerciser", "--socket"])
            .arg(socket)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let model = NicModel {
            child,
            socket: socket.into(),
        };
        let began = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "nic-model does not listen"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        model
    }

    fn client(&self) -> Client {
        // The knock of `start` may not be noticed as gone yet.
        for _ in 0..200 {
            let mut client = Client::silent(UnixStream::connect(&self.socket).unwrap());
            let welcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.hello()));
            match welcome {
                Ok(answer) if !answer.header.is_error() => return client,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("no client is let in");
    }

    fn status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for NicModel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gone(path: &Path) -> bool {
    let began = Instant::now();
    while path.exists() {
        if began.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn a_killed_server_is_noticed_and_the_next_start_works() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    for _ in 0..20 {
        let mut model = NicModel::start(&socket, &[]);
        let mut client = model.client();
        assert_eq!(client.read32(0, exerciser::ID), ID_VALUE);
        model.child.kill().unwrap();
        model.child.wait().unwrap();
        assert!(client.is_closed());
    }
}

#[test]
fn sigterm_and_sigint_end_the_model_and_remove_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut model = NicModel::start(&socket, &[]);
        let mut client = model.client();
        client.write32(0, SCRATCH, 1);
        model.signal(signal);
        assert!(model.child.wait().unwrap().success());
        assert!(gone(&socket), "the socket is still there");
        assert!(client.is_closed());
    }
}

#[test]
fn a_killed_client_leaves_the_server_ready_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let model = NicModel::start(&socket, &[]);
    for _ in 0..5 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "serve::as_a_client_that_is_going_to_be_killed",
                "--nocapture",
            ])
            .env(VICTIM, &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert!(
            lines.any(|l| l.is_ok_and(|l| l.contains("engine runs"))),
            "the client never started"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let mut client = model.client();
        assert_eq!((client.read32(0, CONTROL), client.read32(0, SCRATCH)), (0, 0));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", model.child.id()));
        if let Ok(maps) = maps {
            assert!(
                !maps.contains("memfd:test"),
                "the dead client's memory is still mapped"
            );
        }
    }
}

const VICTIM: &str = "MILLRACE_TEST_VICTIM_SOCKET";

#[test]
fn as_a_client_that_is_going_to_be_killed() {
    let Some(socket) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut client = loop {
        let mut client = Client::silent(UnixStream::connect(&socket).unwrap());
        if !client.hello().header.is_error() {
            break client;
        }
    };
    let memory = memfd(0x1000, true);
    client.bus_master(true);
    client.dma_map(memory.as_fd(), 0, 0x1000, 0x1000).accepted();
    client.write32(0, SCRATCH, 7);
    client.write32(0, BASE_LOW, 0x1000);
    client.write32(0, LENGTH, 0x1000);
    client.write32(0, CONTROL, 1);
    println!("engine runs");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn started_as_root_the_model_becomes_nobody_without_capabilities() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP started_as_root_the_model_becomes_nobody_without_capabilities: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let mut model = NicModel::start(&socket, &["--user", "4711:4712"]);
    let mut client = model.client(); // nobody is served before the privileges are gone
    assert_eq!(model.status("Uid:"), "4711 4711 4711 4711");
    assert_eq!(model.status("Gid:"), "4712 4712 4712 4712");
    assert_eq!(model.status("Groups:"), "");
    assert_eq!(model.status("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(model.status(set), "0000000000000000", "{set}");
    }
    // It still serves, with interrupts, and its socket goes when it is killed.
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    client.set_irqs(EVENT, IRQ_MSIX, 0, 1, &[&fd]).accepted();
    client.write32(0, RAISE, 0);
    assert_eq!(rustix::io::read(&fd, &mut [0; 8]), Ok(8));
    model.child.kill().unwrap();
    model.child.wait().unwrap();
    assert!(gone(&socket), "a killed model's socket is still there");
}

#[test]
fn bad_command_lines_end_with_one_line_and_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let live = dir.path().join("live");
    let _live = UnixListener::bind(&live).unwrap();
    let run = |args: &[&str]| {
        let out = Process::new(env!("CARGO_BIN_EXE_nic-model"))
            .args(args)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    for (args, says) in [
        (vec!["exerciser", "--socket", file], "not a socket"),
        (
            vec!["exerciser", "--socket", live.to_str().unwrap()],
            "another server is listening",
        ),
        (
            vec!["exerciser", "--socket", "/no/such/folder/s"],
            "/no/such/folder/s",
        ),
        (
            vec!["exerciser", "--socket", "/tmp/x", "--user", "no such user"],
            "user",
        ),
    ] {
        let (status, text) = run(&args);
        assert_eq!(status, Some(1), "{args:?}: {text}");
        let mine: Vec<&str> = text.lines().filter(|l| l.starts_with("nic-model: ")).collect();
        assert_eq!((mine.len(), text.lines().count()), (1, 1), "{text}");
        assert!(mine[0].contains(says), "{text}");
    }
    for args in [
        vec!["exerciser"],
        vec!["e1000", "--socket", "/tmp/x"],
        vec!["exerciser", "--mac", "1", "--socket", "s"],
    ] {
        assert_eq!(run(&args).0, Some(2), "{args:?}");
    }
    let help = Process::new(env!("CARGO_BIN_EXE_nic-model"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in [
        "tap:NAME",
        "packet:IFACE",
        "qemu-system-x86_64",
        "vfio-user-pci",
        "--trust-client-memory",
    ] {
        assert!(help.contains(word), "--help does not teach {word}");
    }
}
