//! Helpers that ask the snapshot of the host's routes ([`crate::routes`]).

use crate::interp::{Core, errno};
use crate::routes::PARAMS;
use crate::{Errno, Fault, XdpBuff};

/// `bpf_fib_lookup(ctx, params, plen, flags)`.
pub(super) fn fib_lookup(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    if i64::from(a[2] as i32) < PARAMS as i64 {
        return Ok(errno(Errno::INVAL));
    }
    let mut params = [0; PARAMS];
    core.space.read(buf, a[1], &mut params)?;
    let answer = core.routes.newest().fib_lookup(&mut params, a[3] as u32);
    core.space.write(buf, a[1], &params)?;
    Ok(answer.map_or_else(errno, |code| code as u64))
}

/// `bpf_check_mtu(ctx, ifindex, mtu_len, len_diff, flags)`; interface 0 is the one the frame came in by.
pub(super) fn check_mtu(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let mtu_len = core.space.load::<4>(buf, a[2])? as u32;
    let ifindex = match a[1] as u32 {
        0 => buf.ingress_ifindex,
        given => given,
    };
    let routes = core.routes.newest();
    match routes.check_mtu(buf.len(), ifindex, mtu_len, a[3] as i32, a[4]) {
        Ok((code, mtu)) => {
            core.space.store::<4>(buf, a[2], mtu.into())?;
            Ok(code as u64)
        }
        Err(error) => Ok(errno(error)),
    }
}
