//! The command line.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::SetupError;
use crate::bind::{Wish, plan_bind, plan_unbind};
use crate::change::{Change, Step};
use crate::host::{Host, Linux};
use crate::hugepages;
use crate::journal::Journal;
use crate::status::Status;

const ABOUT: &str = "\
Prepares a host for Millrace, and undoes it.

A userspace driver needs three things of its host: hugepages for the memory that it shares with the NIC, a NIC that the \
kernel's driver has let go of (bound to vfio-pci), and an IOMMU that keeps the NIC away from everybody else's memory. \
`status` shows what is there and says what to do next; the other commands do it. Each prints every step before taking it, as \
the shell command that would do the same; with --dry-run it prints and takes none. What was changed since boot is recorded \
in /run/millrace-setup.json, and `undo` takes it back. Nothing survives a reboot.";

const EXAMPLES: &str = "\
Examples:
  millrace-setup status                        how the host stands, and what to do next
  sudo millrace-setup hugepages 512M           512 MiB in 2 MiB pages on every NUMA node
  sudo millrace-setup hugepages 4G --size 1G --node 0
  sudo millrace-setup bind --dry-run 0000:17:00.0
  sudo millrace-setup bind 0000:17:00.0        from now on a device string: vfio:0000:17:00.0
  sudo millrace-setup unbind 0000:17:00.0      back to the kernel's driver
  sudo millrace-setup undo                     everything as it was";

/// `millrace-setup`.
#[derive(Debug, Parser)]
#[command(name = "millrace-setup", version, about = "Prepares a host for Millrace: hugepages, VFIO, limits; and undoes it",
          long_about = ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Cmd,
    /// Another root of /sys, /proc, /dev and /run.
    #[arg(long, global = true, hide = true, default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Show IOMMU, VFIO, hugepages, memlock and the NICs of the three families; change nothing.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Set hugepages aside on each NUMA node.
    ///
    /// A port with default rings and buffers takes some 30 MiB. The amount is what a node has afterwards, not what is added; 0
    /// gives all free pages back.
    Hugepages {
        /// Memory on each chosen node: 512M, 2G, 0.
        amount: String,
        /// Page size: 2M, or 1G where the CPU has it (best reserved at boot).
        #[arg(long, default_value = "2M", value_name = "SIZE")]
        size: String,
        /// Only this NUMA node; all nodes if left out. `status` shows which node a NIC hangs on.
        #[arg(long)]
        node: Option<u32>,
        #[command(flatten)]
        how: How,
    },
    /// Take NICs from the kernel's driver and give them to vfio-pci.
    ///
    /// Uses driver_override, so that no other device of the same kind is touched. Refuses the interface that carries the
    /// default route, and devices that Millrace does not drive, unless forced. All devices of an IOMMU group go together.
    Bind {
        /// PCI addresses (0000:17:00.0 or 17:00.0) or names of interfaces.
        #[arg(required = true, value_name = "BDF|IFACE")]
        devices: Vec<String>,
        /// Take it even if it carries the default route or is no NIC of ours.
        #[arg(long)]
        force: bool,
        /// Let this user (name or id) open the devices without being root.
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Give NICs back to the kernel's own driver.
    Unbind {
        /// PCI addresses.
        #[arg(required = true, value_name = "BDF")]
        devices: Vec<String>,
        /// The driver that should have them, if not the one they had before or their family's.
        #[arg(long)]
        driver: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Take back everything that was changed since boot, last change first.
    Undo {
        #[command(flatten)]
        how: How,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct How {
    /// Print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Runs a command line on this host.
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<(), SetupError> {
    run_on(&Host::new(cli.root.clone(), Box::new(Linux)), cli, out)
}

/// Runs a command line on `host`.
pub fn run_on(host: &Host, cli: Cli, out: &mut dyn Write) -> Result<(), SetupError> {
    match cli.command {
        Cmd::Status { json: true } => {
            let json = serde_json::to_string_pretty(&Status::read(host))
                .map_err(|e| SetupError::Output(e.into()))?;
            writeln!(out, "{json}").map_err(SetupError::Output)
        }
        Cmd::Status { json: false } => Status::read(host).print(out).map_err(SetupError::Output),
        Cmd::Hugepages {
            amount,
            size,
            node,
            how,
        } => {
            let (bytes, size) = (hugepages::amount(&amount)?, hugepages::amount(&size)?);
            apply(host, hugepages::plan(host, bytes, size / 1024, node)?, how, out)
        }
        Cmd::Bind {
            devices,
            force,
            user,
            how,
        } => apply(host, plan_bind(host, &Wish { devices, force, user })?, how, out),
        Cmd::Unbind { devices, driver, how } => {
            let earlier = Journal::read(host)?;
            apply(
                host,
                plan_unbind(host, &devices, driver.as_deref(), earlier.changes())?,
                how,
                out,
            )
        }
        Cmd::Undo { how } => undo(host, how, out),
    }
}

/// Makes changes, or only shows them.
fn apply(host: &Host, changes: Vec<Change>, how: How, out: &mut dyn Write) -> Result<(), SetupError> {
    if changes.is_empty() {
        return say(out, "nothing to do: it is so already");
    }
    if how.dry_run {
        return changes.iter().try_for_each(|change| show_only(host, change, out));
    }
    let mut journal = Journal::open(host)?;
    for change in &changes {
        journal.record(change)?;
        let made = make(host, change, out);
        if let (Err(SetupError::NotBound { .. } | SetupError::FewerPages { .. }), Some(back)) =
            (&made, change.inverse())
        {
            // Better the old driver than none, and a host that keeps its memory than one that gave nearly all of it.
            if make(host, &back, out).is_ok() {
                journal.record(&back)?;
            }
        }
        journal.settle()?;
        made?;
    }
    Ok(())
}

fn undo(host: &Host, how: How, out: &mut dyn Write) -> Result<(), SetupError> {
    if how.dry_run {
        let journal = Journal::read(host)?;
        let back = journal.changes().iter().rev().filter_map(Change::inverse);
        return back
            .into_iter()
            .try_for_each(|change| show_only(host, &change, out));
    }
    let mut journal = Journal::open(host)?;
    if journal.changes().is_empty() {
        return say(out, "nothing to undo: nothing was changed since boot");
    }
    // One change that cannot be taken back does not keep the others from it.
    let mut failed = None;
    for change in journal.changes().to_vec().into_iter().rev() {
        let done = match change.inverse() {
            // The group's file goes with its last device, and its owner with it.
            Some(Change::GroupOwner { group, .. }) if !host.exists(format!("dev/vfio/{group}")) => Ok(()),
            // A device that is gone needs no driver.
            Some(Change::Driver { bdf, .. }) if !host.exists(format!("sys/bus/pci/devices/{bdf}")) => Ok(()),
            Some(back) => make(host, &back, out),
            None => Ok(()),
        };
        match done {
            Ok(()) => journal.forget(&change)?,
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn make(host: &Host, change: &Change, out: &mut dyn Write) -> Result<(), SetupError> {
    note(change, out)?;
    change.make(host, &mut |step: &Step| say(out, &step.to_string()))
}

fn show_only(host: &Host, change: &Change, out: &mut dyn Write) -> Result<(), SetupError> {
    note(change, out)?;
    change
        .steps(host)
        .iter()
        .try_for_each(|step| say(out, &format!("would: {step}")))
}

fn note(change: &Change, out: &mut dyn Write) -> Result<(), SetupError> {
    change
        .note()
        .map_or(Ok(()), |note| say(out, &format!("# {note}")))
}

fn say(out: &mut dyn Write, line: &str) -> Result<(), SetupError> {
    writeln!(out, "{line}").map_err(SetupError::Output)
}
