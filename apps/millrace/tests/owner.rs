//! Programs of another user than the owner are refused, even where the socket's mode would let that user in.
//!
//! The only test of this file, because it changes the folder of the whole process.

mod common;

use common::*;
use millrace::control::client::{Client, ClientError};
use millrace::control::protocol::ErrorCode;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// `nobody` of Debian.
const STRANGER: u32 = 65534;

#[test]
fn a_program_of_another_user_is_refused_even_where_the_socket_is_open_to_all() {
    let name = "a_program_of_another_user_is_refused_even_where_the_socket_is_open_to_all";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "needs root to become another user");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let app = builder("null", 1)
        .control("mine")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    };
    open(dir.path(), 0o755);
    open(&dir.path().join("mine.sock"), 0o666);
    // By a relative name, because the folders above may be closed to strangers.
    std::env::set_current_dir(dir.path()).expect("chdir");
    let load = |who: u32| {
        std::thread::spawn(move || {
            if who != 0 {
                let (uid, gid) = (Uid::from_raw(who), Gid::from_raw(who));
                set_thread_res_gid(gid, gid, gid).expect("gid of this thread");
                set_thread_res_uid(uid, uid, uid).expect("uid of this thread");
            }
            let mut client = Client::connect(Path::new("."), Some("mine")).expect("the socket is open");
            client
                .call("prog.load", json!({"name": "theirs", "elf": ""}))
                .expect_err("refused")
        })
        .join()
        .expect("the client's thread")
    };
    match load(STRANGER) {
        ClientError::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::Denied, "{refusal}");
            assert!(refusal.message.contains("uid 65534"), "{refusal}");
        }
        other => panic!("{other}"),
    }
    // The owner gets as far as the object, which is none.
    match load(0) {
        ClientError::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{refusal}"),
        other => panic!("{other}"),
    }
    assert!(running.programs().list().is_empty());
    running.stop().expect("clean end");
}
