//! The socket against clients that are slow, greedy, wrong or not allowed.

use super::client::{Client, ClientError, instances};
use super::protocol::{ControlError, ErrorCode, Response};
use super::registry::ControlRegistry;
use super::server::{Limits, Server, ServerError, may_connect};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

fn limits() -> Limits {
    Limits {
        request_bytes: 4096,
        response_bytes: 64 << 10,
        message: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        clients: 4,
    }
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn registry() -> ControlRegistry {
    let registry = ControlRegistry::new();
    registry.register("echo", |args| Ok(args.clone()));
    registry.register("long", |_| Ok(Value::String("x".repeat(1 << 20))));
    registry.register("half", |_| Ok(Value::String("x".repeat(60 << 10))));
    registry.register("panic", |_| panic!("a handler that panics"));
    registry.register("refuse", |_| Err(ControlError::not_found("not here")));
    registry
}

fn start(dir: &Path, name: &str) -> Server {
    let mut server = Server::bind_with(dir, name, limits(), me()).expect("server");
    server.serve(registry()).expect("a thread");
    server
}

fn raw(dir: &Path, name: &str) -> UnixStream {
    let stream = UnixStream::connect(dir.join(format!("{name}.sock"))).expect("connect");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    stream
}

fn answer(stream: &UnixStream) -> Response {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).expect("a response")
}

fn error_of(response: Response) -> ErrorCode {
    assert!(!response.ok);
    response.error.expect("an error").code
}

#[test]
fn a_client_gets_answers_refusals_and_a_clear_word_on_unknown_verbs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let mut client = Client::connect(dir.path(), None).expect("the only instance");
    assert_eq!(client.instance(), "a");
    assert_eq!(
        client.call("echo", json!({"x": [1, 2]})).expect("echo"),
        json!({"x": [1, 2]})
    );
    let refused = |client: &mut Client, verb: &str| match client.call(verb, Value::Null) {
        Err(ClientError::Refused(error)) => error.code,
        other => panic!("{verb}: {other:?}"),
    };
    assert_eq!(refused(&mut client, "refuse"), ErrorCode::NotFound);
    assert_eq!(refused(&mut client, "nonsense"), ErrorCode::UnknownVerb);
    assert_eq!(refused(&mut client, "panic"), ErrorCode::Failed);
    assert_eq!(refused(&mut client, "long"), ErrorCode::TooLarge);
    client
        .call("echo", Value::Null)
        .expect("the connection still serves");
}

#[test]
fn lines_that_are_no_requests_are_answered_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let mut stream = raw(dir.path(), "a");
    for line in [
        "",
        "{",
        "[]",
        "null",
        "{\"verb\":3}",
        "{\"verb\":\"echo\",\"args\":7}",
        "{\"verb\":\"echo\",\"x\":1}",
        "\u{0}\u{1}",
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).expect("write");
        assert_eq!(error_of(answer(&stream)), ErrorCode::BadRequest, "{line:?}");
    }
    stream
        .write_all(b"\xff\xfe\n{\"id\":7,\"verb\":\"echo\"}\n")
        .expect("write");
    let mut reader = BufReader::new(&stream);
    let mut lines = [String::new(), String::new()];
    for line in &mut lines {
        reader.read_line(line).expect("answer");
    }
    let last: Response = serde_json::from_str(&lines[1]).expect("response");
    assert!(
        last.ok && last.id == 7,
        "two requests in one write get two answers in order"
    );
}

#[test]
fn a_request_that_is_too_long_is_refused_before_it_fills_memory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let stream = raw(dir.path(), "a");
    // The server stops reading at its limit, so the rest may not be taken.
    let _ = (&stream).write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(error_of(answer(&stream)), ErrorCode::TooLarge);
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_is_cut_off_and_others_are_served_meanwhile() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let mut slow = raw(dir.path(), "a");
    let start = Instant::now();
    slow.write_all(b"{").expect("first byte");
    let mut other = Client::connect(dir.path(), Some("a")).expect("another client");
    for _ in 0..10 {
        let _ = slow.write_all(b" ");
        other
            .call("echo", Value::Null)
            .expect("served beside the slow one");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(error_of(answer(&slow)), ErrorCode::TooSlow);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_client_that_takes_no_answers_is_hung_up_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let greedy = raw(dir.path(), "a");
    // Far more answers than the socket's buffer holds, none of them read.
    for _ in 0..60 {
        if (&greedy).write_all(b"{\"verb\":\"half\"}\n").is_err() {
            break;
        }
    }
    thread::sleep(Duration::from_millis(700));
    let mut rest = Vec::new();
    let _ = (&greedy).read_to_end(&mut rest);
    assert!(
        rest.len() < 60 * (60 << 10),
        "the server gave up before all answers were written"
    );
    Client::connect(dir.path(), None)
        .expect("others")
        .call("echo", Value::Null)
        .expect("are served");
}

#[test]
fn silent_clients_are_hung_up_on_and_one_too_many_is_told_so() {
    let dir = tempfile::tempdir().expect("tempdir");
    let _server = start(dir.path(), "a");
    let silent: Vec<UnixStream> = (0..4).map(|_| raw(dir.path(), "a")).collect();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(error_of(answer(&raw(dir.path(), "a"))), ErrorCode::Busy);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).expect("end of file"), 0);
    }
    Client::connect(dir.path(), None)
        .expect("room again")
        .call("echo", Value::Null)
        .expect("served");
}

#[test]
fn only_root_and_the_owner_may_connect() {
    assert!(may_connect(0, 1000) && may_connect(1000, 1000) && may_connect(0, 0));
    assert!(!may_connect(1001, 1000) && !may_connect(1000, 0));
}

#[test]
fn another_user_is_refused_by_the_sockets_mode_and_by_peer_credentials() {
    const NAME: &str = "another_user_is_refused_by_the_sockets_mode_and_by_peer_credentials";
    if me() != 0 {
        println!("SKIP {NAME}: needs root to become another user");
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let open =
        |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
    open(0o755);
    let _server = start(dir.path(), "a");
    let path = dir.path().join("a.sock");
    assert_eq!(std::fs::metadata(&path).expect("socket").mode() & 0o777, 0o660);
    let ask = || {
        // Perl belongs to every Debian, and unlike a Python of the user's own anybody may run it.
        let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]); \
                      if (!$s) { print $!{EACCES} ? 'EACCES' : $!; exit } \
                      alarm 5; print scalar <$s>";
        let output = std::process::Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "perl",
                "-e",
                script,
            ])
            .arg(&path)
            .output();
        output
            .ok()
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
    };
    let Some(answer) = ask().filter(|text| !text.is_empty()) else {
        println!("SKIP {NAME}: needs setpriv and perl");
        return;
    };
    assert_eq!(answer.trim(), "EACCES");
    // Even where the mode lets everybody in, the kernel tells who it is.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    assert!(ask().expect("answer").contains("\"denied\""));
}

#[test]
fn a_name_that_is_taken_is_refused_and_a_socket_left_by_a_killed_instance_is_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    // What kill -9 leaves: a socket nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("a.sock")).expect("bind"));
    assert!(instances(dir.path()).is_empty());
    let server = start(dir.path(), "a");
    let again = Server::bind_with(dir.path(), "a", limits(), me());
    assert!(matches!(again, Err(ServerError::Taken { .. })));
    assert_eq!(instances(dir.path()), ["a"]);
    drop(server);
    assert!(
        !dir.path().join("a.sock").exists(),
        "a clean end removes the socket"
    );
    for bad in ["", "../x", "a b", ".hidden", &"x".repeat(65)] {
        let refused = Server::bind_with(dir.path(), bad, limits(), me());
        assert!(matches!(refused, Err(ServerError::Name(_))), "{bad:?}");
    }
}

#[test]
fn a_client_that_comes_before_the_verbs_waits_for_them() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut server = Server::bind_with(dir.path(), "a", limits(), me()).expect("server");
    let early = thread::scope(|scope| {
        let path = dir.path();
        let asking = scope.spawn(move || {
            let mut client = Client::connect(path, Some("a")).expect("it listens");
            client.call("late", json!({}))
        });
        thread::sleep(Duration::from_millis(50));
        let registry = registry();
        registry.register("late", |_| Ok(json!("here")));
        server.serve(registry).expect("a thread");
        asking.join().expect("no panic")
    });
    assert_eq!(early.expect("an answer"), json!("here"));
}

#[test]
fn the_client_says_which_instance_to_choose_and_that_none_runs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let none = Client::connect(dir.path(), None).expect_err("none");
    assert!(matches!(none, ClientError::NoInstance { .. }), "{none}");
    let (_a, _b) = (start(dir.path(), "a"), start(dir.path(), "b"));
    let several = Client::connect(dir.path(), None).expect_err("two").to_string();
    assert!(
        several.contains("a, b") && several.contains("--instance"),
        "{several}"
    );
    let wrong = Client::connect(dir.path(), Some("c"))
        .expect_err("no c")
        .to_string();
    assert!(wrong.contains("running: a, b"), "{wrong}");
}

#[test]
fn stopping_the_server_ends_clients_that_wait() {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = start(dir.path(), "a");
    let mut waiting = raw(dir.path(), "a");
    waiting.write_all(b"{\"verb\"").expect("half a request");
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(matches!(waiting.read(&mut [0; 64]), Ok(0) | Err(_)));
}
