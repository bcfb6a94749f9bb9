//! The way to the system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::SetupError;

/// What changes the system. The real one is [`Linux`]; tests have one that behaves like a kernel on a directory.
pub trait Kernel {
    /// Writes to a file of sysfs.
    fn write(&self, path: &Path, value: &str) -> io::Result<()>;
    /// Loads a module.
    fn load_module(&self, name: &str) -> io::Result<()>;
    /// Gives a file to a user.
    fn chown(&self, path: &Path, uid: u32) -> io::Result<()>;
}

/// The kernel this runs on.
#[derive(Clone, Copy, Debug)]
pub struct Linux;

impl Kernel for Linux {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        // Not `fs::write`: it would create a file where there is none, and sysfs wants the value in one piece.
        let file = fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut &file, value.as_bytes())
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        let output = Command::new("modprobe").arg(name).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(
            said.lines().next().unwrap_or("modprobe failed").to_owned(),
        ))
    }

    fn chown(&self, path: &Path, uid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(uid), None)
    }
}

/// A host: where its files are and what changes them.
pub struct Host {
    root: PathBuf,
    kernel: Box<dyn Kernel>,
}

impl Host {
    /// The host this runs on.
    pub fn this() -> Self {
        Host::new("/", Box::new(Linux))
    }

    /// A host whose files lie below `root`.
    pub fn new(root: impl Into<PathBuf>, kernel: Box<dyn Kernel>) -> Self {
        Host {
            root: root.into(),
            kernel,
        }
    }

    /// The file that the host calls `path` (without a leading slash).
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// What changes this host.
    pub fn kernel(&self) -> &dyn Kernel {
        self.kernel.as_ref()
    }

    /// A file's text without surrounding white space; `None` if it cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(path))
            .ok()
            .map(|text| text.trim().to_owned())
    }

    /// A number in a file.
    pub fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A hexadecimal number with `0x` in a file.
    pub fn hex(&self, path: impl AsRef<Path>) -> Option<u16> {
        u16::from_str_radix(self.text(path)?.trim_start_matches("0x"), 16).ok()
    }

    /// Names in a directory, sorted; none if it cannot be read.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Last component of what a symbolic link points at.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_link(self.path(path))
            .ok()?
            .file_name()?
            .to_str()
            .map(str::to_owned)
    }

    /// True if the path exists.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// User id of a name from /etc/passwd, or of a number.
    pub fn user_id(&self, user: &str) -> Result<u32, SetupError> {
        if let Ok(uid) = user.parse() {
            return Ok(uid);
        }
        let passwd = self.text("etc/passwd").unwrap_or_default();
        let entry = passwd
            .lines()
            .map(|l| l.split(':').collect::<Vec<_>>())
            .find(|f| f[0] == user);
        let uid = entry.and_then(|fields| fields.get(2)?.parse().ok());
        uid.ok_or_else(|| SetupError::NoSuchUser(user.to_owned()))
    }
}
