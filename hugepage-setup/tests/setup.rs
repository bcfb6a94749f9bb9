//! Set-up and undo on a host in a directory.

mod common;

use common::{DISK, Fake, NIC, PAGES, UPLINK, X710};

#[test]
fn binding_takes_the_device_from_its_driver_and_undo_gives_it_back() {
    let fake = Fake::new();
    let printed = fake.run(&format!("bind {NIC}")).unwrap();
    assert!(printed.contains("# 0000:17:00.0 leaves ixgbe"), "{printed}");
    assert_eq!(
        fake.changes(),
        [
            "modprobe vfio-pci",
            "write sys/bus/pci/devices/0000:17:00.0/driver_override vfio-pci",
            "write sys/bus/pci/devices/0000:17:00.0/driver/unbind 0000:17:00.0",
            "write sys/bus/pci/drivers_probe 0000:17:00.0",
        ]
    );
    assert_eq!(fake.driver(NIC).as_deref(), Some("vfio-pci"));
    assert_eq!(
        fake.driver(UPLINK).as_deref(),
        Some("ixgbe"),
        "the other port keeps its driver"
    );
    assert!(
        fake.run(&format!("bind {NIC}"))
            .unwrap()
            .contains("nothing to do")
    );

    fake.run("undo").unwrap();
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));
    assert_eq!(
        fake.host
            .text(format!("sys/bus/pci/devices/{NIC}/driver_override"))
            .as_deref(),
        Some("")
    );
    assert!(fake.run("undo").unwrap().contains("nothing to undo"));
    assert!(!fake.path("run/millrace-setup.json").exists());
}

#[test]
fn each_step_is_printed_before_it_is_taken_as_the_shell_would_write_it() {
    let fake = Fake::new();
    fake.run(&format!("bind --user net {NIC}")).unwrap();
    let log = fake.log.borrow();
    let mut steps = 0;
    for pair in log.windows(2) {
        if let Some((kind, rest)) = pair[1].split_once(' ').filter(|(kind, _)| *kind != "print") {
            let said = match kind {
                "modprobe" => format!("print modprobe {rest}"),
                "chown" => rest
                    .split_once(' ')
                    .map(|(path, uid)| format!("print chown {uid} /{path}"))
                    .unwrap(),
                _ => rest
                    .split_once(' ')
                    .map(|(path, value)| format!("print echo {value} > /{path}"))
                    .unwrap(),
            };
            assert_eq!(pair[0], said);
            steps += 1;
        }
    }
    assert_eq!(steps, 5, "{log:?}");
}

#[test]
fn a_dry_run_prints_the_steps_and_takes_none() {
    let fake = Fake::new();
    for line in [format!("bind --dry-run {NIC}"), "hugepages --dry-run 64M".into()] {
        let printed = fake.run(&line).unwrap();
        assert!(printed.contains("would: echo"), "{printed}");
        assert_eq!(fake.changes(), [""; 0]);
    }
    assert_eq!((fake.driver(NIC).as_deref(), fake.pages(0)), (Some("ixgbe"), 0));
    assert!(!fake.path("run/millrace-setup.json").exists());
    fake.run(&format!("bind {NIC}")).unwrap();
    assert!(
        fake.run("undo --dry-run")
            .unwrap()
            .contains("would: echo 0000:17:00.0 > /sys/bus/pci/drivers_probe")
    );
    assert!(
        fake.run(&format!("unbind --dry-run {NIC}"))
            .unwrap()
            .contains("driver/unbind")
    );
    assert_eq!(fake.driver(NIC).as_deref(), Some("vfio-pci"));
}

#[test]
fn the_interface_with_the_default_route_is_refused_unless_forced() {
    let fake = Fake::new();
    for name in [UPLINK, "17:00.1", "eno2"] {
        let message = fake.refused(&format!("bind {name}"));
        assert!(
            message.contains("eno2, which carries the default route") && message.contains("--force"),
            "{message}"
        );
    }
    assert_eq!(fake.changes(), [""; 0]);
    fake.run("bind --force eno2").unwrap();
    assert_eq!(fake.driver(UPLINK).as_deref(), Some("vfio-pci"));
}

#[test]
fn a_default_route_over_ipv6_or_through_a_bond_counts_too() {
    let fake = Fake::new();
    fake.file("proc/net/route", "Iface\tDestination\n");
    fake.run(&format!("bind --dry-run {UPLINK}")).unwrap();

    let (zero, hop) = ("0".repeat(32), "fe800000000000000000000000000001");
    let line = |flags: &str, name: &str| {
        format!("{zero} 00 {zero} 00 {hop} 00000400 00000001 00000000 {flags} {name}\n")
    };
    fake.file("proc/net/ipv6_route", &line("00000003", "eno2"));
    assert!(fake.refused(&format!("bind {UPLINK}")).contains("default route"));
    // An unreachable default, as every host has on lo, goes through nobody.
    fake.file(
        "proc/net/ipv6_route",
        &(line("00200200", "lo") + &line("00000200", "eno2")),
    );
    fake.run(&format!("bind --dry-run {UPLINK}")).unwrap();

    fake.file("proc/net/ipv6_route", &line("00000003", "vlan5"));
    fake.file("sys/class/net/vlan5/lower_bond0", "");
    fake.file("sys/class/net/bond0/lower_eno1", "");
    fake.file("sys/class/net/bond0/lower_bond0", "");
    assert!(
        fake.refused(&format!("bind {NIC}"))
            .contains("eno1, which carries the default route")
    );
}

#[test]
fn devices_of_a_shared_group_go_together() {
    let fake = Fake::new();
    fake.device("0000:19:00.0", "0x10fb", Some("ixgbe"), 20, None);
    fake.device("0000:19:00.1", "0x10fb", Some("ixgbe"), 20, None);
    fake.device("0000:16:00.0", "0x2922", Some("pcieport"), 20, None);
    let message = fake.refused("bind 19:00.0");
    assert!(message.contains("0000:19:00.1 (ixgbe)"), "{message}");
    assert!(
        message.contains("`millrace-setup bind 0000:19:00.0 0000:19:00.1`"),
        "{message}"
    );
    fake.run("bind 19:00.0 19:00.1 19:00.0").unwrap();
    assert_eq!(fake.driver("0000:19:00.1").as_deref(), Some("vfio-pci"));
}

#[test]
fn what_cannot_be_bound_is_refused_with_what_to_do() {
    let fake = Fake::new();
    for (line, says) in [
        ("bind 0000:ff:00.0", "no PCI device"),
        ("bind eth7", "no network interface `eth7`"),
        ("bind ../../etc", "no network interface"),
        ("bind 17:00", "write it like 0000:17:00.0"),
        ("bind 00:1f.2", "no NIC that Millrace drives"),
        ("bind --user nobody17 17:00.0", "no user `nobody17`"),
        ("unbind 17:00.0", "not with vfio-pci but with ixgbe"),
    ] {
        let message = fake.refused(line);
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(fake.changes(), [""; 0], "{line}");
    }
    fake.run(&format!("bind --force {DISK}")).unwrap();
    std::fs::remove_file(fake.path("run/millrace-setup.json")).unwrap();
    assert!(fake.refused(&format!("unbind {DISK}")).contains("--driver"));
    fake.run(&format!("unbind {DISK} --driver ahci")).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("ahci"));
    std::fs::remove_file(fake.path(&format!("sys/bus/pci/devices/{NIC}/iommu_group"))).unwrap();
    assert!(fake.refused(&format!("bind {NIC}")).contains("intel_iommu=on"));
}

#[test]
fn without_vfio_or_permission_nothing_is_taken() {
    let fake = Fake::new();
    fake.file("no-modules", "");
    let message = fake.refused(&format!("bind {NIC}"));
    assert!(
        message.contains("no vfio-pci driver") && message.contains("not found"),
        "{message}"
    );
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));

    fake.file("readonly", "");
    assert!(fake.refused("hugepages 64M").contains("run `sudo millrace-setup"));
}

#[test]
fn a_device_that_vfio_does_not_take_goes_back_to_its_driver() {
    let fake = Fake::new();
    fake.file(&format!("sys/bus/pci/devices/{NIC}/refuse-vfio-pci"), "");
    let message = fake.refused(&format!("bind {NIC}"));
    assert!(
        message.contains("was to go to vfio-pci but is with no driver"),
        "{message}"
    );
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));
    assert!(fake.run("undo").unwrap().contains("nothing to undo"));
}

#[test]
fn unbind_gives_a_device_to_its_family_and_leaves_nothing_to_undo() {
    let fake = Fake::new();
    fake.run(&format!("bind {NIC} {X710}")).unwrap();
    fake.run(&format!("unbind {NIC}")).unwrap();
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));
    fake.run("undo").unwrap();
    assert_eq!(fake.driver(X710), None, "it had no driver before");
    // A driver that is no longer loaded is loaded.
    fake.run(&format!("bind {NIC}")).unwrap();
    std::fs::remove_dir(fake.path("sys/bus/pci/drivers/ixgbe")).unwrap();
    assert!(
        fake.run(&format!("unbind {NIC}"))
            .unwrap()
            .contains("modprobe ixgbe")
    );
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));
}

#[test]
fn hugepages_are_set_on_each_node_or_one_and_undone_to_what_was_first() {
    let fake = Fake::new();
    let first = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    fake.file(first, "8\n");
    fake.run("hugepages 512M").unwrap();
    assert_eq!((fake.pages(0), fake.pages(1)), (256, 256));
    fake.run("hugepages 1G --node 1").unwrap();
    assert_eq!((fake.pages(0), fake.pages(1)), (256, 512));
    assert!(
        fake.run("hugepages 1G --node 1")
            .unwrap()
            .contains("nothing to do")
    );
    fake.run("hugepages 3M --node 0").unwrap();
    assert_eq!(fake.pages(0), 2, "rounded up to whole pages");
    fake.run("undo").unwrap();
    assert_eq!((fake.pages(0), fake.pages(1)), (8, 0));
}

#[test]
fn hugepages_that_cannot_be_had_say_why_and_what_else_works() {
    let fake = Fake::new();
    let message = fake.refused("hugepages 4G --node 1");
    assert!(
        message.contains(&format!("gave {PAGES} of 2048 pages")),
        "{message}"
    );
    assert!(message.contains("hugepagesz=2048K hugepages=2048"), "{message}");
    fake.run("undo").unwrap();
    assert_eq!(fake.pages(1), 0);
    assert!(fake.refused("hugepages 1G --node 2").contains("it has 0, 1"));
    assert!(
        fake.refused("hugepages 1G --size 16M")
            .contains("it has 2048 KiB, 1048576 KiB")
    );
    for bad in ["x", "12X", "-5M", "99999999999T", ""] {
        if !bad.is_empty() && !bad.starts_with('-') {
            assert!(
                fake.refused(&format!("hugepages {bad}")).contains("512M or 2G"),
                "{bad}"
            );
        }
    }
}

#[test]
fn a_host_without_numa_has_one_node() {
    let fake = Fake::new();
    std::fs::remove_dir_all(fake.path("sys/devices/system/node")).unwrap();
    for file in ["nr_hugepages", "free_hugepages"] {
        fake.file(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"), "0");
    }
    fake.run("hugepages 64M").unwrap();
    assert_eq!(
        fake.changes(),
        ["write sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 32"]
    );
}

#[test]
fn a_damaged_record_undoes_nothing() {
    let fake = Fake::new();
    for text in [
        "not json",
        r#"[{"change":"hugepages"}]"#,
        r#"[{"change":"format_disk","disk":"sda"}]"#,
        r#"[{"change":"driver","bdf":"../../x","from":null,"to":null,"override_from":"","override_to":""}]"#,
        r#"[{"change":"driver","bdf":"0000:17:00.0","from":"a/b","to":null,"override_from":"","override_to":""}]"#,
    ] {
        fake.file("run/millrace-setup.json", text);
        let message = fake.refused("undo");
        assert!(
            message.contains("is damaged") && message.contains("nothing was undone"),
            "{message}"
        );
        assert!(fake.run("status").unwrap().contains("is damaged"));
    }
}

#[test]
fn what_can_be_undone_is_undone_even_if_something_else_cannot() {
    let fake = Fake::new();
    fake.run("hugepages 64M --node 0").unwrap();
    fake.run(&format!("bind {NIC}")).unwrap();
    fake.file(&format!("sys/bus/pci/devices/{NIC}/refuse-ixgbe"), "");
    assert!(fake.refused("undo").contains("was to go to ixgbe"));
    assert_eq!(fake.pages(0), 0);
    std::fs::remove_file(fake.path(&format!("sys/bus/pci/devices/{NIC}/refuse-ixgbe"))).unwrap();
    fake.run("undo").unwrap();
    assert_eq!(fake.driver(NIC).as_deref(), Some("ixgbe"));
    // A device that was pulled out needs nothing any more.
    fake.run(&format!("bind {NIC}")).unwrap();
    std::fs::remove_dir_all(fake.path(&format!("sys/bus/pci/devices/{NIC}"))).unwrap();
    fake.run("undo").unwrap();
    assert!(fake.run("undo").unwrap().contains("nothing to undo"));
}

#[test]
fn two_set_ups_do_not_work_at_once() {
    let fake = Fake::new();
    let lock = std::fs::File::create(fake.path("run/millrace-setup.json.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(fake.refused("hugepages 64M").contains("wait until it is done"));
    assert!(fake.run("status").is_ok());
}

#[test]
fn status_shows_what_there_is_and_what_to_do_next() {
    let fake = Fake::new();
    let text = fake.run("status").unwrap();
    for says in [
        "on: yes",
        "dmar0",
        "intel_iommu=on iommu=pt",
        "vfio-pci: no",
        "soft: 8192 KiB",
        "node 1: 0 of 2 MiB",
        "node 0: 0 of 1 GiB",
        "0000:17:00.0  8086:10fb 82599ES 10-Gigabit SFI/SFP+ (ixgbe)  driver: ixgbe  group: 7  node: 1  eno1 up",
        "eno2 up (default route)",
        "0000:18:00.0  8086:1572 X710 10GbE SFP+ (i40e, needs --untested)  driver: no driver",
        "next       give a NIC to VFIO: millrace-setup bind 0000:17:00.0",
        "next       set hugepages aside: millrace-setup hugepages 512M",
    ] {
        assert!(text.contains(says), "{says:?} is missing in\n{text}");
    }
    assert!(!text.contains(DISK));

    fake.run(&format!("bind {NIC} {X710}")).unwrap();
    fake.run("hugepages 64M").unwrap();
    let json: serde_json::Value = serde_json::from_str(&fake.run("status --json").unwrap()).unwrap();
    assert_eq!(json["nics"][0]["driver"], "vfio-pci");
    assert_eq!(json["nics"][1]["interfaces"][0]["default_route"], true);
    assert_eq!(json["nics"][2]["judged"], false);
    assert_eq!(json["iommu"]["enabled"], true);
    assert_eq!(json["hugepages"][0]["free"], 32);
    assert_eq!(json["memlock"]["soft"], 8_388_608);
    assert_eq!(json["changes_to_undo"], 4);
    let advice = json["advice"].to_string();
    assert!(
        advice.contains("LimitMEMLOCK=infinity") && advice.contains("bind 0000:17:00.1 (carries"),
        "{advice}"
    );
}

#[test]
fn status_of_a_host_with_nothing_is_no_error() {
    let fake = Fake::new();
    for dir in ["sys", "proc", "dev"] {
        std::fs::remove_dir_all(fake.path(dir)).unwrap();
    }
    let text = fake.run("status").unwrap();
    assert!(
        text.contains("NICs       none") && text.contains("use a model"),
        "{text}"
    );
}
