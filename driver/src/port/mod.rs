//! A port: one NIC function, its queues and their life cycle, without regard to the family behind it.
//!
//! [`Port::open`] takes a [`bus::Device`](crate::bus::Device) through reset and bring-up and starts the queues.
//! Workers take queues out with [`Port::take_queue`]; one control thread keeps the port for link, statistics, filters
//! and the queues' life cycle (`alloc -> start -> stop -> free`, each queue by itself while the others run). Dropping
//! the port stops all DMA before any of its memory goes.

mod config;
mod error;
mod family;
mod life;
mod stats;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use millrace_nic_models::family as known;

use crate::bus::{CONFIG_REGION, Device, DmaMapping, Iommu};
use crate::hint::HintLayout;
use crate::ixgbe::Ixgbe;
use crate::mem::{BufferLayout, Hugepages, Region};
use crate::queue::{BATCH, PortShared};

pub use config::{Offloads, PortConfig, RssConfig, RssFields};
pub use error::PortError;
pub use family::RegisterValue;
pub(crate) use family::{Family, QueueRings};
use life::Slot;
pub use stats::{BufferStats, DriverInfo, LinkStatus, PortStats, RxStats, TxStats};

/// One port of a NIC. See the [module](self).
#[derive(Debug)]
pub struct Port {
    // In the order in which they must go: the device is quiet before this list is dropped.
    family: Box<dyn Family>,
    slots: Vec<Slot>,
    buffers: Option<DmaMapping>,
    region: Arc<Region>,
    iommu: Arc<Iommu>,
    shared: Arc<PortShared>,
    config: PortConfig,
    /// One eventfd a queue and one for the link; empty without interrupts.
    irqs: Vec<OwnedFd>,
    /// Addresses and VLANs added since the port was opened, to be set again after a reset.
    macs: Vec<[u8; 6]>,
    vlans: Vec<u16>,
}

impl Port {
    /// Brings the device up as `config` says and starts its queues.
    ///
    /// # Errors
    /// [`PortError`]: each names the step, and for a wait the register, the value seen and the time waited. A port that
    /// fails to open has stopped its device again.
    pub fn open(device: Arc<dyn Device>, config: PortConfig) -> Result<Port, PortError> {
        let mut family = identify(&device, &config)?;
        check(&config, &family.info())?;
        family.bring_up(&config)?;
        let iommu = Iommu::new(device.clone());
        let region = match &config.pool {
            Some(region) => region.clone(),
            None => {
                let layout = BufferLayout::new(buffers_wanted(&config));
                Region::alloc(&Hugepages::default(), layout, config.numa.or(device.numa_node()))?
            }
        };
        let buffers = iommu.map(region.memory())?;
        let mut port = Port {
            family,
            slots: (0..config.queues).map(|_| Slot::Free).collect(),
            buffers: Some(buffers),
            region,
            iommu,
            shared: PortShared::new(device),
            config,
            irqs: Vec::new(),
            macs: Vec::new(),
            vlans: Vec::new(),
        };
        if port.config.interrupts {
            port.connect_interrupts()?;
        }
        for queue in 0..port.config.queues {
            let halves = port.start_queue(queue)?;
            port.give_back(halves.0, halves.1)?;
        }
        port.family.start_traffic()?;
        port.wait_for_link()?;
        Ok(port)
    }

    /// Who drives the port, and what.
    pub fn driver_info(&self) -> DriverInfo {
        self.family.info()
    }

    /// The configuration in force.
    pub fn config(&self) -> &PortConfig {
        &self.config
    }

    /// Queue pairs.
    pub fn queues(&self) -> u16 {
        self.config.queues
    }

    /// The port's own MAC address, from the EEPROM.
    pub fn mac(&self) -> [u8; 6] {
        self.family.mac()
    }

    /// Largest IP packet in bytes.
    pub fn mtu(&self) -> u16 {
        self.config.mtu
    }

    /// The longest frame that arrives in one buffer; longer ones come as runs.
    pub fn single_buffer_max(&self) -> usize {
        rx_buffer_len(self.region.layout()) as usize
    }

    /// The packet buffers, for a second port that is to share them.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where the buffers are. Exact when no worker is at work.
    pub fn buffers(&self) -> BufferStats {
        let (total, home) = (self.region.count() as usize, self.region.free() as usize);
        BufferStats {
            total,
            home,
            in_flight: total.saturating_sub(home),
        }
    }

    /// The layout of the raw write-backs.
    pub fn hint_layout(&self) -> &HintLayout {
        self.family.hint_layout()
    }

    /// False once the device has gone (its process closed the socket, it fell off the bus).
    pub fn is_alive(&self) -> bool {
        self.shared.device().is_alive()
    }

    /// The link now.
    pub fn link(&mut self) -> Result<LinkStatus, PortError> {
        self.family.link()
    }

    /// Counters of the port since it was opened.
    pub fn stats(&mut self) -> Result<PortStats, PortError> {
        self.family.stats()
    }

    /// Every counter the device has, by the datasheet's name in lower case.
    pub fn xstats(&mut self) -> Result<Vec<(&'static str, u64)>, PortError> {
        self.family.xstats()
    }

    /// Reads the register file; what a read would clear is left out.
    pub fn registers_dump(&mut self) -> Result<Vec<RegisterValue>, PortError> {
        self.family.registers()
    }

    /// Receive frames for any destination.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        self.family.set_promiscuous(on)?;
        self.config.promiscuous = on;
        Ok(())
    }

    /// Receive all multicast frames.
    pub fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        self.family.set_all_multicast(on)?;
        self.config.all_multicast = on;
        Ok(())
    }

    /// Receive frames for a further unicast address.
    pub fn add_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        self.family.add_mac(mac)?;
        if !self.macs.contains(&mac) {
            self.macs.push(mac);
        }
        Ok(())
    }

    /// No longer receive frames for an address that was added.
    pub fn remove_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        self.family.remove_mac(mac)?;
        self.macs.retain(|m| *m != mac);
        Ok(())
    }

    /// Receive a VLAN while the VLAN filter is on.
    pub fn add_vlan(&mut self, vlan: u16) -> Result<(), PortError> {
        self.family.set_vlan(vlan, true)?;
        if !self.vlans.contains(&vlan) {
            self.vlans.push(vlan);
        }
        Ok(())
    }

    /// No longer receive a VLAN while the VLAN filter is on.
    pub fn remove_vlan(&mut self, vlan: u16) -> Result<(), PortError> {
        self.family.set_vlan(vlan, false)?;
        self.vlans.retain(|v| *v != vlan);
        Ok(())
    }

    /// Switches tag stripping and the VLAN filter.
    pub fn set_vlan_offload(&mut self, strip: bool, filter: bool) -> Result<(), PortError> {
        self.family.set_vlan_offload(strip, filter)?;
        (self.config.offloads.vlan_strip, self.config.offloads.vlan_filter) = (strip, filter);
        Ok(())
    }

    /// Receive-side scaling in force.
    pub fn rss(&self) -> &RssConfig {
        &self.config.rss
    }

    /// Changes key, indirection table or fields while traffic runs.
    pub fn set_rss(&mut self, rss: RssConfig) -> Result<(), PortError> {
        if let Some(queue) = rss.reta.iter().find(|q| **q >= self.config.queues) {
            return Err(PortError::NoSuchQueue {
                queue: *queue,
                queues: self.config.queues,
            });
        }
        self.family.set_rss(&rss, self.config.queues)?;
        self.config.rss = rss;
        Ok(())
    }

    /// Changes the MTU while traffic runs.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), PortError> {
        self.family.set_mtu(mtu)?;
        self.config.mtu = mtu;
        Ok(())
    }

    /// The eventfd that a queue's interrupt signals; `None` without interrupts. Arm it with
    /// [`RxQueue::arm`](crate::queue::RxQueue::arm), wait, read its 8 bytes.
    pub fn irq(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        if queue >= self.config.queues {
            return None;
        }
        self.irqs.get(usize::from(queue)).map(AsFd::as_fd)
    }

    /// The eventfd of link changes; `None` without interrupts. After reading it call
    /// [`ack_link_irq`](Self::ack_link_irq).
    pub fn link_irq(&self) -> Option<BorrowedFd<'_>> {
        self.irqs.get(usize::from(self.config.queues)).map(AsFd::as_fd)
    }

    /// Acknowledges a link interrupt, so that the next change raises another.
    pub fn ack_link_irq(&mut self) -> Result<(), PortError> {
        self.family.ack_link_interrupt()
    }

    /// Resets the device and brings it up again with the configuration in force. All queues must have been given back
    /// first; those that ran are started again with empty rings, and their buffers come home.
    pub fn reset(&mut self) -> Result<(), PortError> {
        let running = self.halt_queues()?;
        self.family.quiesce()?;
        self.family.bring_up(&self.config)?;
        self.unstick();
        for mac in &self.macs {
            self.family.add_mac(*mac)?;
        }
        for vlan in &self.vlans {
            self.family.set_vlan(*vlan, true)?;
        }
        if self.config.interrupts {
            self.connect_interrupts()?;
        }
        for queue in running {
            let halves = self.start_queue(queue)?;
            self.give_back(halves.0, halves.1)?;
        }
        self.family.start_traffic()
    }

    /// Stops the device and takes all memory away from it, then gives the first error if there was one. Dropping the
    /// port does the same.
    pub fn close(mut self) -> Result<(), PortError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), PortError> {
        if self.shared.is_closed() {
            return Ok(());
        }
        let outcome = self.family.quiesce();
        if !self.irqs.is_empty() {
            let none: Vec<Option<BorrowedFd<'_>>> = self.irqs.iter().map(|_| None).collect();
            let _ = self.shared.device().set_irqs(0, &none);
        }
        // Buffers come home after the device has stopped or, failing that, can no longer reach them: unmap first.
        self.buffers = None;
        self.slots.iter_mut().for_each(Slot::unmap);
        self.shared.close();
        self.slots.clear();
        outcome
    }

    fn connect_interrupts(&mut self) -> Result<(), PortError> {
        use rustix::event::{EventfdFlags, eventfd};
        let need = u32::from(self.config.queues) + 1;
        let have = self.shared.device().irq_count();
        if have < need {
            return Err(PortError::Vectors {
                device: self.shared.device().name().to_owned(),
                have,
                need,
            });
        }
        while self.irqs.len() < need as usize {
            let fd =
                eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| PortError::Io {
                    what: "making an eventfd for an interrupt",
                    source: e.into(),
                })?;
            self.irqs.push(fd);
        }
        let fds: Vec<Option<BorrowedFd<'_>>> = self.irqs.iter().map(|fd| Some(fd.as_fd())).collect();
        self.shared.device().set_irqs(0, &fds)?;
        self.family.setup_interrupts(&self.config)
    }

    fn wait_for_link(&mut self) -> Result<(), PortError> {
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < self.config.link_wait && !self.family.link()?.up {
            self.shared.device().relax(round);
            round = round.saturating_add(1);
        }
        Ok(())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Err(e) = self.shut_down()
            && !e.is_gone()
        {
            tracing::error!("closing the port: {e}");
        }
    }
}

/// Bytes of one buffer that a device may write: whole KiB, as 82599 and its relatives count them.
pub(crate) fn rx_buffer_len(layout: &BufferLayout) -> u16 {
    (layout.data_len() / 1024 * 1024).min(16 * 1024) as u16
}

/// Rings full, a batch and a free stack for each half, and some to spare.
fn buffers_wanted(config: &PortConfig) -> u32 {
    if config.buffers > 0 {
        return config.buffers.min(u32::MAX as usize) as u32;
    }
    let per_queue = u32::from(config.rx_ring) + u32::from(config.tx_ring) + 2 * 512 + BATCH as u32;
    u32::from(config.queues) * per_queue + 512
}

/// Finds the family of a device by its PCI ids.
fn identify(device: &Arc<dyn Device>, config: &PortConfig) -> Result<Box<dyn Family>, PortError> {
    let mut ids = [0; 4];
    device.read(CONFIG_REGION, 0, &mut ids)?;
    let (vendor, id) = (
        u16::from_le_bytes([ids[0], ids[1]]),
        u16::from_le_bytes([ids[2], ids[3]]),
    );
    let name = || device.name().to_owned();
    let Some(known) = known::lookup(vendor, id) else {
        return Err(PortError::UnknownDevice {
            device: name(),
            vendor,
            id,
        });
    };
    if !known.judged && !config.untested {
        return Err(PortError::Untested {
            device: name(),
            vendor,
            id,
            name: known.name,
        });
    }
    match known.family {
        known::Family::Ixgbe => Ok(Box::new(Ixgbe::new(device.clone(), known)?)),
        other => Err(PortError::NoDriver {
            device: name(),
            name: known.name,
            family: other.name(),
        }),
    }
}

/// Refuses a configuration that the device cannot have, before anything of it is touched.
fn check(config: &PortConfig, info: &DriverInfo) -> Result<(), PortError> {
    let bad = |what, value: u64, allowed| {
        Err(PortError::Config {
            what,
            value,
            family: info.driver,
            allowed,
        })
    };
    if config.queues == 0 || config.queues > info.max_queues {
        return bad(
            "queues",
            config.queues.into(),
            "at least 1, at most what the device has (16 with RSS)",
        );
    }
    for (what, ring) in [("rx_ring", config.rx_ring), ("tx_ring", config.tx_ring)] {
        if !ring.is_power_of_two() || !(64..=4096).contains(&ring) {
            return bad(what, ring.into(), "a power of two from 64 to 4096");
        }
    }
    if !(68..=9706).contains(&config.mtu) {
        return bad("mtu", config.mtu.into(), "68 to 9706");
    }
    if let Some(queue) = config.rss.reta.iter().find(|q| **q >= config.queues) {
        return bad("rss.reta", (*queue).into(), "queues of this port only");
    }
    let layout = config.pool.as_ref().map_or(BufferLayout::new(1), |r| *r.layout());
    if rx_buffer_len(&layout) < 1024 {
        return bad(
            "pool",
            layout.stride.into(),
            "buffers with at least 1 KiB behind the headroom",
        );
    }
    let least = u32::from(config.queues) * u32::from(config.rx_ring);
    if config.pool.is_none() && config.buffers > 0 && config.buffers < least as usize {
        return bad(
            "buffers",
            config.buffers as u64,
            "at least queues x rx_ring, or 0 to let the port choose",
        );
    }
    Ok(())
}
