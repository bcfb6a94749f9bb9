//! What was changed since boot, so that it can be undone. The record lies in /run: like the changes themselves, it does not
//! outlive a reboot.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use crate::SetupError;
use crate::change::Change;
use crate::host::Host;

const FILE: &str = "run/millrace-setup.json";

/// The record of changes, locked against a second millrace-setup.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    changes: Vec<Change>,
    _lock: Option<fs::File>,
}

impl Journal {
    /// Reads the record without locking it, to look only.
    pub fn read(host: &Host) -> Result<Self, SetupError> {
        let path = host.path(FILE);
        let damaged = |why: String| SetupError::Journal {
            path: path.clone(),
            why,
        };
        let changes: Vec<Change> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(SetupError::system("read", &path, e)),
        };
        match changes.iter().find(|c| !c.is_sound()) {
            Some(_) => Err(damaged("a change that cannot be".into())),
            None => Ok(Journal {
                path,
                changes,
                _lock: None,
            }),
        }
    }

    /// Reads the record and keeps others from changing it.
    pub fn open(host: &Host) -> Result<Self, SetupError> {
        let lock_path = host.path(format!("{FILE}.lock"));
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.map_err(|e| SetupError::system("open", &lock_path, e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SetupError::Locked),
            Err(e) => return Err(SetupError::system("lock", &lock_path, e.into())),
        }
        Ok(Journal {
            _lock: Some(lock),
            ..Journal::read(host)?
        })
    }

    /// Changes to undo, oldest first.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Records a change before it is made. A second change of the same thing keeps what was there before the first; one
    /// that brings it back is no change any more.
    pub fn record(&mut self, new: &Change) -> Result<(), SetupError> {
        use Change::{Driver, GroupOwner, Hugepages, Module};
        if matches!(new, Module { .. }) {
            return Ok(());
        }
        let mut merged = false;
        for old in &mut self.changes {
            merged = match (&mut *old, new) {
                (
                    Hugepages {
                        node, size_kib, to, ..
                    },
                    Hugepages {
                        node: n,
                        size_kib: s,
                        to: t,
                        ..
                    },
                ) => {
                    let same = (*node, *size_kib) == (*n, *s);
                    same.then(|| *to = *t).is_some()
                }
                (
                    Driver {
                        bdf, to, override_to, ..
                    },
                    Driver {
                        bdf: b,
                        to: t,
                        override_to: o,
                        ..
                    },
                ) => (bdf == b)
                    .then(|| (*to, *override_to) = (t.clone(), o.clone()))
                    .is_some(),
                (GroupOwner { group, to, .. }, GroupOwner { group: g, to: t, .. }) => {
                    (group == g).then(|| *to = *t).is_some()
                }
                _ => false,
            };
            if merged {
                break;
            }
        }
        if !merged {
            self.changes.push(new.clone());
        }
        self.save()
    }

    /// Drops records of changes that have been taken back.
    pub fn settle(&mut self) -> Result<(), SetupError> {
        self.changes.retain(|change| match change {
            Change::Module { .. } => false,
            Change::Hugepages { from, to, .. } => from != to,
            Change::Driver {
                from,
                to,
                override_from,
                override_to,
                ..
            } => from != to || override_from != override_to,
            Change::GroupOwner { from, to, .. } => from != to,
        });
        self.save()
    }

    /// Forgets a change that has been undone.
    pub fn forget(&mut self, change: &Change) -> Result<(), SetupError> {
        self.changes.retain(|c| c != change);
        self.save()
    }

    fn save(&self) -> Result<(), SetupError> {
        let failed = |e| SetupError::system("write", &self.path, e);
        if self.changes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
                _ => Ok(()),
            };
        }
        // A new file put in the old one's place: whoever is interrupted leaves one or the other.
        let next = self.path.with_extension("json.new");
        let json = serde_json::to_vec_pretty(&self.changes).map_err(|e| failed(e.into()))?;
        let mut file = fs::File::create(&next).map_err(failed)?;
        file.write_all(&json)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        fs::rename(&next, &self.path).map_err(failed)
    }
}
