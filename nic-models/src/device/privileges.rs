//! Giving up privileges once wires and sockets are open.

use std::io;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Who to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("no user `{0}` in /etc/passwd; name one that exists, or write UID or UID:GID")]
    NoSuchUser(String),
    #[error("cannot read /etc/passwd: {0}; write UID:GID instead of a name")]
    Passwd(#[source] io::Error),
    #[error("user `{0}` is root; privileges cannot be dropped to root")]
    Root(String),
    #[error("cannot give up privileges: {what}: {source}")]
    Refused { what: &'static str, source: io::Error },
    #[error("cannot give up privileges: the process has {0} threads already")]
    Threads(usize),
}

impl Account {
    /// Looks a user up in /etc/passwd by name or number; `UID:GID` is taken as it stands.
    pub fn find(user: &str) -> Result<Account, PrivilegeError> {
        let number = |s: &str| s.parse::<u32>().ok();
        let account = match user.split_once(':') {
            Some((uid, gid)) => number(uid)
                .zip(number(gid))
                .map(|(uid, gid)| Account { uid, gid }),
            None => {
                let passwd = std::fs::read_to_string("/etc/passwd").map_err(PrivilegeError::Passwd)?;
                find_in(&passwd, user).or(number(user).map(|uid| Account { uid, gid: uid }))
            }
        };
        match account {
            Some(account) if account.uid == 0 || account.gid == 0 => Err(PrivilegeError::Root(user.into())),
            Some(account) => Ok(account),
            None => Err(PrivilegeError::NoSuchUser(user.into())),
        }
    }
}

/// Finds `name:password:uid:gid:...` (passwd(5)) by name or number.
fn find_in(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let account = Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        };
        (name == user || uid == user).then_some(account)
    })
}

/// Whether this process runs as root and so has an account to give up.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Becomes `account` (if given), gives up every capability, and sees to it that no program started from here
/// gains any. Must be called before the first thread is started: credentials belong to threads.
pub fn give_up(account: Option<Account>) -> Result<(), PrivilegeError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(PrivilegeError::Threads(threads));
    }
    let refused = |what| {
        move |e: Errno| PrivilegeError::Refused {
            what,
            source: e.into(),
        }
    };
    if let Some(Account { uid, gid }) = account {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).map_err(refused("setgroups"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(refused("setresgid"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(refused("setresuid"))?;
    }
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {} // kernels before 4.3 have none
        Err(e) => return Err(refused("ambient capabilities")(e)),
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets).map_err(refused("capset"))?;
    rustix::thread::set_no_new_privs(true).map_err(refused("no_new_privs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let nobody = Some(Account {
            uid: 65534,
            gid: 65534,
        });
        assert_eq!(find_in(PASSWD, "nobody"), nobody);
        assert_eq!(find_in(PASSWD, "65534"), nobody);
        assert_eq!(find_in(PASSWD, "broken"), None);
    }

    #[test]
    fn root_and_unknown_users_are_refused() {
        assert!(matches!(Account::find("0:0"), Err(PrivilegeError::Root(_))));
        assert!(matches!(
            Account::find("no such user"),
            Err(PrivilegeError::NoSuchUser(_))
        ));
        assert_eq!(Account::find("12:34").unwrap(), Account { uid: 12, gid: 34 });
    }
}
