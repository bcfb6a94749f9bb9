//! The socket's file: made, replaced when stale, removed at the end, and never somebody else's.
//!
//! All of it happens under a lock on the folder, so that a server that starts and one that has just died (or the
//! helper that tidies up after it) do not remove each other's file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::ServeError;

/// How long to wait for whoever else works in the folder. Nobody takes long; somebody may hold the lock for spite.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Tells one socket file from a later one of the same name, which may well have the same inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    device: u64,
    inode: u64,
    /// Modification time in seconds and nanoseconds; neither chmod nor chown changes it.
    made: (i64, i64),
}

impl SocketId {
    /// Of the file at `path`, if there is one.
    pub fn of(path: &Path) -> io::Result<SocketId> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(SocketId {
            device: meta.dev(),
            inode: meta.ino(),
            made: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

impl std::fmt::Display for SocketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}.{}.{}.{}",
            self.device, self.inode, self.made.0, self.made.1
        )
    }
}

impl FromStr for SocketId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const BAD: &str = "not the id of a socket";
        let numbers: Vec<&str> = text.split('.').collect();
        let &[device, inode, seconds, nanos] = &numbers[..] else {
            return Err(BAD);
        };
        let signed = |s: &str| s.parse::<i64>().map_err(|_| BAD);
        let unsigned = |s: &str| s.parse::<u64>().map_err(|_| BAD);
        Ok(SocketId {
            device: unsigned(device)?,
            inode: unsigned(inode)?,
            made: (signed(seconds)?, signed(nanos)?),
        })
    }
}

/// Listens at `path`, mode 0660. A socket that nobody listens at any more is replaced.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketId), ServeError> {
    let fail = |what| {
        move |source| ServeError::Bind {
            path: path.into(),
            what,
            source,
        }
    };
    let _lock = lock_folder(path);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServeError::NotASocket { path: path.into() });
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(fail("remove the stale socket"))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(fail("look at it")(e)),
            Ok(_) | Err(_) => return Err(ServeError::InUse { path: path.into() }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail("look at it")(e)),
    }
    let listener = UnixListener::bind(path).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => ServeError::InUse { path: path.into() },
        _ => fail("bind")(e),
    })?;
    listener.set_nonblocking(true).map_err(fail("set up"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail("set up"))?;
    let id = SocketId::of(path).map_err(fail("look at it"))?;
    Ok((listener, id))
}

/// Removes the socket file of a server that still has it open.
pub(super) fn remove_own(path: &Path, id: SocketId) {
    let _lock = lock_folder(path);
    if SocketId::of(path).is_ok_and(|found| found == id) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the socket file of a server that has died, if it is still there. Ids can come round again (time stamps are
/// coarse), so whether somebody listens has the last word.
pub fn remove_stale_socket(path: &Path, id: SocketId) {
    let _lock = lock_folder(path);
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if SocketId::of(path).is_ok_and(|found| found == id) && UnixStream::connect(path).is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

/// Locks the folder of `path` until the result is dropped. Goes on without when it cannot be had.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => PathBuf::from(parent),
        _ => PathBuf::from("."),
    };
    let folder = File::open(folder).ok()?;
    let began = Instant::now();
    while flock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        if began.elapsed() > LOCK_PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_way_through_a_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let id = SocketId::of(dir.path()).unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1.2.3", "1.2.3.4.5", "a.b.c.d", "-1.2.3.4"] {
            assert!(bad.parse::<SocketId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dead_servers_socket_is_removed_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, id) = listen(&path).unwrap();
        remove_stale_socket(&path, id);
        assert!(path.exists());
        drop(listener);
        remove_stale_socket(&path, id);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_servers_helper_leaves_the_next_servers_socket_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        // Many times, so that inode numbers come round again.
        for _ in 0..50 {
            let (old, id) = listen(&path).unwrap();
            drop(old);
            assert!(path.exists());
            let (_new, _) = listen(&path).unwrap();
            remove_stale_socket(&path, id);
            assert!(path.exists());
            std::fs::remove_file(&path).unwrap();
        }
    }
}
