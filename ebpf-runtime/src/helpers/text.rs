//! Helpers about text: `bpf_trace_printk`, `bpf_trace_vprintk`, `bpf_strncmp`. What programs print goes to `tracing`, target
//! `millrace::trace_printk`, and to [`crate::trace`].

use crate::interp::{Core, errno};
use crate::{Errno, Fault, XdpBuff};

/// Longest format string.
const FORMAT_MAX: usize = 256;
/// Longest string argument.
const STRING_MAX: usize = 128;
/// Arguments of `bpf_trace_vprintk`.
const ARGS_MAX: usize = 12;

/// `bpf_trace_printk(fmt, fmt_size, a, b, c)`: the length printed.
pub(super) fn trace_printk(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    print(core, buf, a[0], a[1], &a[2..5])
}

/// `bpf_trace_vprintk(fmt, fmt_size, data, data_len)`.
pub(super) fn trace_vprintk(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let len = a[3] as u32 as usize;
    if !len.is_multiple_of(8) || len > ARGS_MAX * 8 {
        return Ok(errno(Errno::INVAL));
    }
    let mut bytes = [0u8; ARGS_MAX * 8];
    core.space.read(buf, a[2], &mut bytes[..len])?;
    let args: Vec<u64> = bytes[..len]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|w| u64::from_ne_bytes(*w))
        .collect();
    print(core, buf, a[0], a[1], &args)
}

fn print(core: &mut Core, buf: &XdpBuff<'_>, fmt: u64, size: u64, args: &[u64]) -> Result<u64, Fault> {
    let size = size as u32 as usize;
    if size == 0 || size > FORMAT_MAX {
        return Ok(errno(Errno::INVAL));
    }
    let mut bytes = [0u8; FORMAT_MAX];
    core.space.read(buf, fmt, &mut bytes[..size])?;
    let end = bytes[..size].iter().position(|b| *b == 0);
    let Some(end) = end else {
        return Ok(errno(Errno::INVAL));
    };
    let format = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let text = match render(core, buf, &format, args) {
        Some(text) => text,
        None => return Ok(errno(Errno::INVAL)),
    };
    tracing::info!(target: "millrace::trace_printk", worker = core.worker, "{}", text.trim_end());
    crate::trace::line(core.worker, text.trim_end());
    Ok(text.len() as u64)
}

/// The kernel's subset of printf: `%d %i %u %x %X %p %s %c %%`, lengths `l`, `ll`, `h`, padding.
fn render(core: &mut Core, buf: &XdpBuff<'_>, format: &str, args: &[u64]) -> Option<String> {
    let mut out = String::new();
    let mut args = args.iter().copied();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut zero = false;
        let mut width = 0usize;
        let mut longs = 0;
        let kind = loop {
            match chars.next()? {
                '0' if width == 0 => zero = true,
                d @ '0'..='9' => width = (width * 10 + d as usize - '0' as usize).min(64),
                'l' => longs += 1,
                'h' | '-' | '+' | '#' | ' ' => {}
                other => break other,
            }
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let arg = args.next()?;
        let word = if longs > 0 { arg } else { u64::from(arg as u32) };
        let signed = if longs > 0 {
            arg as i64
        } else {
            i64::from(arg as i32)
        };
        let text = match kind {
            'd' | 'i' => signed.to_string(),
            'u' => word.to_string(),
            'x' => format!("{word:x}"),
            'X' => format!("{word:X}"),
            'c' => char::from(arg as u8).to_string(),
            'p' => {
                // %pK, %px, %pI4 and so on print addresses or read through them; the address itself will do.
                while chars.next_if(char::is_ascii_alphanumeric).is_some() {}
                format!("{arg:#x}")
            }
            's' => string_at(core, buf, arg),
            _ => return None,
        };
        for _ in text.len()..width {
            out.push(if zero { '0' } else { ' ' });
        }
        out.push_str(&text);
    }
    Some(out)
}

fn string_at(core: &mut Core, buf: &XdpBuff<'_>, addr: u64) -> String {
    let mut bytes = Vec::new();
    for at in 0..STRING_MAX as u64 {
        match core.space.load::<1>(buf, addr.wrapping_add(at)) {
            Ok(0) | Err(_) => break,
            Ok(byte) => bytes.push(byte as u8),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `bpf_strncmp(s1, s1_size, s2)`.
pub(super) fn strncmp(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    for at in 0..u64::from(a[1] as u32) {
        let left = core.space.load::<1>(buf, a[0].wrapping_add(at))?;
        let right = core.space.load::<1>(buf, a[2].wrapping_add(at))?;
        if left != right {
            return Ok(left.wrapping_sub(right));
        }
        if left == 0 {
            break;
        }
    }
    Ok(0)
}
