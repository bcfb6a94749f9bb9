//! What programs reach and what they do not.

use super::*;

fn frame(f: impl FnOnce(&mut Space, &mut XdpBuff<'_>)) {
    let mut bytes = [0u8; 256];
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = i as u8;
    }
    let mut buf = XdpBuff::new(&mut bytes, 64, 100, 0, &[]);
    f(&mut Space::new(), &mut buf);
}

#[test]
fn frame_is_reachable_to_its_last_byte_and_no_further() {
    frame(|space, buf| {
        let data = buf.data.addr() as u64;
        assert_eq!(space.load::<4>(buf, data), Ok(0x4342_4140));
        assert_eq!(space.load::<1>(buf, data + 99), Ok(163));
        assert_eq!(space.load::<2>(buf, data + 99), Err(Fault::OutOfBounds));
        assert_eq!(space.load::<1>(buf, data + 100), Err(Fault::OutOfBounds));
        assert_eq!(space.load::<1>(buf, data - 1), Err(Fault::OutOfBounds));
        assert_eq!(space.store::<8>(buf, data + 92, u64::MAX), Ok(()));
        assert_eq!(space.load::<8>(buf, data + 92), Ok(u64::MAX));
    });
}

#[test]
fn only_frames_in_use_are_reachable() {
    frame(|space, buf| {
        let fp = space.frame_pointer(0);
        assert_eq!(space.store::<8>(buf, fp - 8, 5), Ok(()));
        assert_eq!(space.store::<8>(buf, fp - 4, 5), Err(Fault::OutOfBounds));
        assert_eq!(space.store::<1>(buf, fp, 5), Err(Fault::OutOfBounds));
        assert_eq!(space.store::<8>(buf, fp - 512, 5), Ok(()));
        assert_eq!(space.store::<8>(buf, fp - 520, 5), Err(Fault::OutOfBounds));
        space.set_depth(1);
        assert_eq!(space.store::<8>(buf, fp - 520, 5), Ok(()));
        space.set_depth(FRAMES - 1);
        assert_eq!(space.store::<1>(buf, fp - STACK as u64, 5), Ok(()));
        assert_eq!(
            space.store::<1>(buf, fp - STACK as u64 - 1, 5),
            Err(Fault::OutOfBounds)
        );
    });
}

#[test]
fn addresses_of_contexts_maps_and_functions_are_no_memory() {
    frame(|space, buf| {
        for addr in [0, 1, CTX_ADDR, map_addr(0), func_addr(3), u64::MAX, u64::MAX - 7] {
            assert_eq!(space.load::<8>(buf, addr), Err(Fault::OutOfBounds), "{addr:#x}");
        }
        assert_eq!(func_pc(func_addr(77)), Some(77));
        assert_eq!(func_pc(map_addr(1)), None);
        assert!(space.map(map_addr(0)).is_err());
    });
}

#[test]
fn atomic_on_an_odd_address_is_a_fault() {
    frame(|space, buf| {
        let fp = space.frame_pointer(0);
        space.store::<8>(buf, fp - 8, 40).unwrap();
        let add = atomic::ADD | atomic::FETCH;
        assert_eq!(space.atomic::<8>(buf, fp - 8, add, 2, 0), Ok(Some(40)));
        assert_eq!(space.atomic::<8>(buf, fp - 8, atomic::ADD, 2, 0), Ok(None));
        assert_eq!(
            space.atomic::<8>(buf, fp - 8, atomic::CMPXCHG, 9, 44),
            Ok(Some(44))
        );
        assert_eq!(space.load::<8>(buf, fp - 8), Ok(9));
        assert_eq!(space.atomic::<4>(buf, fp - 7, add, 2, 0), Err(Fault::Unaligned));
    });
}
