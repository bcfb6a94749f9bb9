//! The asking side: finds the instance, sends a line, reads a line.

use super::protocol::{ControlError, MAX_RESPONSE, Request, Response};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an answer may take; life-cycle calls wait for hardware.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no instance runs ({dir} has no live socket); start one, or give --run-dir if it runs elsewhere")]
    NoInstance { dir: PathBuf },
    #[error("no instance named {name} runs in {dir}{}", running(.others))]
    NotRunning {
        name: String,
        dir: PathBuf,
        others: Vec<String>,
    },
    #[error("several instances run: {}; choose one with --instance NAME", .0.join(", "))]
    Several(Vec<String>),
    #[error("may not speak to {path}; run this with sudo, or as the user who runs the instance")]
    Denied { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} hung up without an answer; has the instance ended?")]
    HungUp { path: PathBuf },
    #[error("{path} gave no JSON answer ({reason}); is it the socket of a millrace instance?")]
    Malformed { path: PathBuf, reason: String },
    #[error("{0}")]
    Refused(#[from] ControlError),
}

fn running(others: &[String]) -> String {
    if others.is_empty() {
        "; none does: start it, or give --run-dir if it runs elsewhere".into()
    } else {
        format!("; running: {}", others.join(", "))
    }
}

/// A connection to one instance.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    name: String,
    reader: BufReader<UnixStream>,
    next_id: u64,
}

/// Names of the instances whose sockets answer, in alphabetical order.
pub fn instances(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let name = file.strip_suffix(".sock")?.to_string();
            match UnixStream::connect(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::PermissionDenied => None,
                _ => Some(name),
            }
        })
        .collect();
    names.sort_unstable();
    names
}

impl Client {
    /// Connects to the instance `name`, or to the only one that runs.
    pub fn connect(dir: &Path, name: Option<&str>) -> Result<Client, ClientError> {
        let name = match name {
            Some(name) => name.to_string(),
            None => {
                let mut running = instances(dir);
                match running.len() {
                    0 => {
                        return Err(ClientError::NoInstance {
                            dir: dir.to_path_buf(),
                        });
                    }
                    1 => running.remove(0),
                    _ => return Err(ClientError::Several(running)),
                }
            }
        };
        let path = dir.join(format!("{name}.sock"));
        let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
                name: name.clone(),
                dir: dir.to_path_buf(),
                others: instances(dir),
            },
            io::ErrorKind::PermissionDenied => ClientError::Denied { path: path.clone() },
            _ => ClientError::Io {
                path: path.clone(),
                source,
            },
        })?;
        let limits = stream
            .set_read_timeout(Some(ANSWER_TIME))
            .and(stream.set_write_timeout(Some(ANSWER_TIME)));
        limits.map_err(|source| ClientError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Client {
            path,
            name,
            reader: BufReader::new(stream),
            next_id: 1,
        })
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.name
    }

    /// Asks for `verb` and waits for the answer.
    pub fn call(&mut self, verb: &str, args: Value) -> Result<Value, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request {
            id,
            verb: verb.to_string(),
            args,
        };
        let mut line = serde_json::to_vec(&request).map_err(|e| self.io(io::Error::other(e)))?;
        line.push(b'\n');
        // A server that refuses the connection may hang up before all is written, but has said why.
        let written = self.reader.get_mut().write_all(&line);
        let mut answer = Vec::new();
        let read = (&mut self.reader)
            .take(MAX_RESPONSE as u64 + 1)
            .read_until(b'\n', &mut answer);
        match read {
            Ok(0) => {
                return Err(ClientError::HungUp {
                    path: self.path.clone(),
                });
            }
            Ok(_) => {}
            Err(e) => return Err(self.io(written.err().unwrap_or(e))),
        }
        if answer.last() != Some(&b'\n') {
            return Err(self.malformed("the answer is cut or too long"));
        }
        let response: Response = serde_json::from_slice(&answer).map_err(|e| self.malformed(e))?;
        match response.error {
            Some(error) => Err(ClientError::Refused(error)),
            None if response.ok && response.id == id => Ok(response.result),
            None => Err(self.malformed("the answer belongs to another request")),
        }
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn malformed(&self, reason: impl ToString) -> ClientError {
        ClientError::Malformed {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}
