//! What an application is built from.

use millrace_driver::port::PortConfig;

/// One port: a name people use, the device string, how it is brought up.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Short name, such as `eth0`.
    pub name: String,
    /// `vfio:BDF`, `vfio-user:PATH` or `model:ixgbe?wire=...`.
    pub device: String,
    /// Queues, rings, MTU, RSS, offloads.
    pub config: PortConfig,
    /// Interface that passed frames are written to and whose frames are sent on the port. It gets the port's MAC address
    /// and MTU and is brought up; it goes away with the application.
    pub exception_tap: Option<String>,
}

impl PortSpec {
    /// A port with the driver's default configuration and no exception tap.
    pub fn new(name: impl Into<String>, device: impl Into<String>) -> PortSpec {
        PortSpec {
            name: name.into(),
            device: device.into(),
            config: PortConfig::default(),
            exception_tap: None,
        }
    }

    /// With this configuration.
    pub fn config(mut self, config: PortConfig) -> PortSpec {
        self.config = config;
        self
    }

    /// With this many RX/TX queue pairs.
    pub fn queues(mut self, queues: u16) -> PortSpec {
        self.config.queues = queues;
        self
    }

    /// With this exception interface.
    pub fn exception_tap(mut self, name: impl Into<String>) -> PortSpec {
        self.exception_tap = Some(name.into());
        self
    }
}

/// Which queues of a port a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSel {
    /// Every queue.
    All,
    /// Only this one.
    N(u16),
}
