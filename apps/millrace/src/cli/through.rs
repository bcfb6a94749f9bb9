//! Frames as a NIC would deliver them, with what it says about them: through its model, stepped here (`--hints`).

use super::CliError;
use crate::hints;
use millrace_driver::bus::local::LocalDevice;
use millrace_driver::port::{Port, PortConfig};
use millrace_driver::queue::RxBatch;
use millrace_ebpf::HintLayout;
use millrace_nic_models::device;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Rounds in which neither model nor queue had anything, after which the capture is at its end.
const QUIET: usize = 64;

/// A frame and its descriptor's raw write-back.
pub(super) struct Received {
    pub(super) frame: Vec<u8>,
    pub(super) raw: Vec<u8>,
}

/// What queues of a model say of frames: `ixgbe` and the like.
pub(super) fn layout(model: &str) -> Result<HintLayout, CliError> {
    let (_, port) = open(model, "null")?;
    Ok(hints::translate(port.hint_layout()))
}

/// Receives a capture; frames that the model does not take, or that need several buffers, are missing.
pub(super) fn frames(model: &str, capture: &Path) -> Result<Vec<Received>, CliError> {
    let (device, mut port) = open(model, &format!("pcap:{},", capture.display()))?;
    let fail = |e: &dyn std::fmt::Display| CliError::Usage(format!("model {model}: {e}"));
    let (mut rx, tx) = port.take_queue(0).map_err(|e| fail(&e))?;
    let mut batch = RxBatch::new();
    let mut received = Vec::new();
    let mut quiet = 0;
    while quiet < QUIET {
        quiet += 1;
        if device.step() != device::Work::Idle {
            quiet = 0;
        }
        while rx.poll(&mut batch) > 0 {
            quiet = 0;
            for view in batch.split_frames_mut().filter(|view| !view.more) {
                if let Some(frame) = view.buffer.get(view.off..view.off + view.len) {
                    received.push(Received {
                        frame: frame.to_vec(),
                        raw: view.raw.to_vec(),
                    });
                }
            }
            batch.clear();
        }
    }
    drop(batch);
    port.give_back(rx, tx).map_err(|e| fail(&e))?;
    port.close().map_err(|e| fail(&e))?;
    Ok(received)
}

fn open(model: &str, wire: &str) -> Result<(Arc<LocalDevice>, Port), CliError> {
    let fail = |e: &dyn std::fmt::Display| CliError::Usage(format!("--hints {model}: {e}"));
    let made = device::open(&format!("{model}?wire={wire}")).map_err(|e| fail(&e))?;
    let device = LocalDevice::new(made);
    let config = PortConfig {
        queues: 1,
        promiscuous: true,
        link_wait: Duration::from_secs(1),
        ..PortConfig::default()
    };
    let port = Port::open(device.clone(), config).map_err(|e| fail(&e))?;
    Ok((device, port))
}
