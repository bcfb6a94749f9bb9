//! From one configuration to the next: what goes is taken out first, what stays keeps all it has, what is new begins.

use std::collections::HashMap;
use std::time::Instant;

use super::{Balancer, BalancerError, GRAVES, Grave, Member, SETTLE, VipEntry, link, service};
use crate::config::{self, CheckKind, Config, Fragments};
use crate::events::{Event, Moment};
use crate::layout::{self, Link, Settings, VipKey};
use crate::state::{Pulse, Standing};

impl Balancer {
    /// Follows a configuration from now on. Backends that stay keep their flows, their counters and what is known of them.
    pub fn apply(&mut self, config: Config) -> Result<(), BalancerError> {
        if config.limits != self.limits {
            return Err(BalancerError::Limits);
        }
        self.plane.set_settings(&settings(&config, self.mac))?;
        // Shrink first, so that what is given up can be used again at once.
        let stays = |entry: &VipEntry| config.vips.iter().any(|vip| service(vip) == entry.service());
        let (kept, gone) = std::mem::take(&mut self.vips).into_iter().partition(stays);
        self.vips = kept;
        self.write_vips()?;
        for entry in gone {
            self.bury_vip(entry)?;
        }
        for at in 0..self.vips.len() {
            if let Some(vip) = config
                .vips
                .iter()
                .find(|vip| service(vip) == self.vips[at].service())
            {
                self.with_entry(at, |balancer, entry| balancer.shrink_vip(entry, vip))?;
            }
        }
        for vip in &config.vips {
            let at = match self.vips.iter().position(|entry| entry.service() == service(vip)) {
                Some(at) => at,
                None => {
                    let entry = self.new_vip(vip)?;
                    self.vips.push(entry);
                    self.vips.len() - 1
                }
            };
            self.with_entry(at, |balancer, entry| balancer.grow_vip(entry, vip))?;
        }
        self.config = Some(config);
        self.write_vips()?;
        for at in 0..self.vips.len() {
            self.publish(at)?;
        }
        Ok(())
    }

    fn new_vip(&mut self, vip: &config::Vip) -> Result<VipEntry, BalancerError> {
        let index = self.free_vips.pop_first().ok_or(BalancerError::Limits)?;
        self.plane.write_ring(index, &[], &[])?;
        Ok(VipEntry {
            index,
            config: vip.clone(),
            members: Vec::new(),
            settling: Some(Instant::now() + vip.health.timeout + SETTLE),
            base: self.plane.vip_stats(index)?,
            ring: Vec::new(),
        })
    }

    /// Lets go of the backends that a new configuration of the VIP does not have: out of the ring first, then out of the
    /// world. Under another mode every backend is another one.
    fn shrink_vip(&mut self, entry: &mut VipEntry, vip: &config::Vip) -> Result<(), BalancerError> {
        let stays = |member: &Member| {
            let listed = vip
                .backends
                .iter()
                .any(|backend| backend.address == member.config.address);
            listed && vip.mode == entry.config.mode
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut entry.members).into_iter().partition(stays);
        entry.members = kept;
        self.write_ring(entry)?;
        for member in gone {
            self.log.push(Event {
                when: Moment::now(),
                vip: vip.name.clone(),
                backend: member.config.address,
                from: Some(member.standing.state()),
                to: None,
                why: "removed from the file".into(),
            });
            self.bury(&member)?;
        }
        Ok(())
    }

    fn grow_vip(&mut self, entry: &mut VipEntry, vip: &config::Vip) -> Result<(), BalancerError> {
        let checked = |vip: &config::Vip| vip.health.kind != CheckKind::None;
        let other_checks = checked(vip) != checked(&entry.config);
        let mut old = std::mem::take(&mut entry.members);
        for backend in &vip.backends {
            let Some(at) = old
                .iter()
                .position(|member| member.config.address == backend.address)
            else {
                entry.members.push(self.new_member(vip, backend)?);
                continue;
            };
            let mut member = old.swap_remove(at);
            if member.config.drain != backend.drain {
                member.standing.drain = backend.drain;
            }
            if other_checks {
                member.standing.pulse = first_pulse(vip);
            }
            member.config = backend.clone();
            entry.members.push(member);
        }
        entry.config = vip.clone();
        Ok(())
    }

    fn new_member(&mut self, vip: &config::Vip, backend: &config::Backend) -> Result<Member, BalancerError> {
        let (id, incarnation) = self.ids.take().ok_or(BalancerError::Limits)?;
        let standing = Standing {
            pulse: first_pulse(vip),
            drain: backend.drain,
            mac: None,
        };
        let when = Moment::now();
        let why = "added".to_owned();
        let to = Some(standing.state());
        self.log.push(Event {
            when,
            vip: vip.name.clone(),
            backend: backend.address,
            from: None,
            to,
            why: why.clone(),
        });
        let written = layout::Backend::new(backend.address, link(vip.mode), [0; 6], 0, incarnation);
        self.plane.put_backend(id, &written)?;
        let base = self.plane.backend_stats(id)?;
        Ok(Member {
            id,
            incarnation,
            config: backend.clone(),
            standing,
            since: when,
            why,
            base,
            written,
        })
    }

    fn bury(&mut self, member: &Member) -> Result<(), BalancerError> {
        let address = member.config.address;
        self.plane.put_backend(
            member.id,
            &layout::Backend::new(address, Link::L2, [0; 6], 0, member.incarnation),
        )?;
        if self.graves.len() == GRAVES {
            self.graves.pop_front();
        }
        self.graves.push_back(Grave {
            id: member.id,
            incarnation: member.incarnation,
            address,
        });
        self.ids.free.push_back(member.id);
        Ok(())
    }

    fn bury_vip(&mut self, entry: VipEntry) -> Result<(), BalancerError> {
        self.plane.write_ring(entry.index, &[], &[])?;
        for member in &entry.members {
            self.bury(member)?;
        }
        self.free_vips.insert(entry.index);
        Ok(())
    }

    /// Brings the map of services and addresses in step.
    fn write_vips(&mut self) -> Result<(), BalancerError> {
        let mut wanted = HashMap::new();
        for entry in &self.vips {
            let (config, index) = (&entry.config, entry.index);
            let table = if config.flow_table {
                layout::VIP_FLOW_TABLE
            } else {
                0
            };
            wanted.insert(
                VipKey::service(config.address, config.port, config.protocol),
                layout::Vip { index, flags: table },
            );
            let whole = VipKey::address(config.address, config.protocol.number());
            let mark = layout::Vip {
                index,
                flags: layout::VIP_ADDRESS_ONLY,
            };
            if config.fragments == Fragments::Hash3 {
                let flags = layout::VIP_ADDRESS_ONLY | layout::VIP_FRAGMENTS_HASH3 | table;
                wanted.insert(whole, layout::Vip { index, flags });
            } else {
                wanted.entry(whole).or_insert(mark);
            }
            let icmp = if config.address.is_ipv4() {
                layout::IPPROTO_ICMP
            } else {
                layout::IPPROTO_ICMPV6
            };
            wanted.insert(VipKey::address(config.address, icmp), mark);
        }
        let gone: Vec<VipKey> = self
            .written_vips
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.plane.remove_vip(&key)?;
            self.written_vips.remove(&key);
        }
        for (key, vip) in wanted {
            if self.written_vips.get(&key) != Some(&vip) {
                self.plane.put_vip(&key, &vip)?;
                self.written_vips.insert(key, vip);
            }
        }
        Ok(())
    }
}

fn first_pulse(vip: &config::Vip) -> Pulse {
    if vip.health.kind == CheckKind::None {
        Pulse::assumed()
    } else {
        Pulse::unknown()
    }
}

fn settings(config: &Config, mac: [u8; 6]) -> Settings {
    let mut settings = Settings {
        hash_seed: config.hash_seed,
        udp_idle_ns: config.udp_idle.as_nanos() as u64,
        mac,
        mtu: config.mtu,
        icmp_per_second: config.icmp_per_second,
        ..Settings::default()
    };
    if let Some(source) = config.source4 {
        settings
            .source4
            .copy_from_slice(&layout::address_bytes(source.address)[..4]);
        settings.source4_hash.copy_from_slice(&source.hashed_bits()[..4]);
    }
    if let Some(source) = config.source6 {
        settings.source6 = layout::address_bytes(source.address);
        settings.source6_hash = source.hashed_bits();
    }
    settings
}
