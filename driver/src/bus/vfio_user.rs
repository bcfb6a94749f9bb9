//! The vfio-user client: a device behind a Unix socket.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::{BusError, Device};

/// Connects to the vfio-user server that listens on `path`.
pub fn connect(path: &Path) -> Result<Arc<dyn Device>, BusError> {
    let device = format!("vfio-user:{}", path.display());
    let stream = UnixStream::connect(path).map_err(|source| BusError::Unreachable {
        path: path.to_owned(),
        source,
    })?;
    from_stream(stream, &device)
}

/// Speaks vfio-user over a connected socket; `name` is the device string for messages.
pub fn from_stream(stream: UnixStream, name: &str) -> Result<Arc<dyn Device>, BusError> {
    drop(stream);
    Err(BusError::Unsupported {
        device: name.to_owned(),
        what: "vfio-user in this build",
    })
}
