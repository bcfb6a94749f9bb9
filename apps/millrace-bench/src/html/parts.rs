//! Plots of what things cost by themselves: parts of forwarding, loads by where their line lies.

use super::plot::{Bar, Palette, lying};
use super::sections::number;
use serde_json::Value;

/// Cycles and instructions of each code without each part.
pub fn anatomy(rows: &[&Value]) -> String {
    const KEY: &str = "<span>each bar is labelled with what its code goes without</span>";
    const CODES: [(&str, &str); 3] = [
        ("driver", "driver: its own queues"),
        (
            "floor",
            "floor: touches descriptors and the frames' first line only",
        ),
        ("copy", "copy: a lean copy of the driver's scalar loops"),
    ];
    let mut html = String::new();
    for (column, title, unit) in [
        (
            "cycles_per_packet",
            "Core cycles a packet, parts left out",
            "cycles a packet, the median round",
        ),
        (
            "instructions_per_packet",
            "Instructions a packet, parts left out",
            "instructions a packet",
        ),
    ] {
        let mut palette = Palette::default();
        for (_, name) in CODES {
            palette.of(name);
        }
        let bar = |row: &&Value| {
            let code = row["code"].as_str()?;
            let (_, name) = CODES.into_iter().find(|(known, _)| *known == code)?;
            let series = palette.of(name);
            let bar = Bar {
                series,
                value: number(row, column)?,
                mark: None,
            };
            Some((row["left_out"].as_str()?.to_owned(), vec![vec![bar]]))
        };
        let all: Vec<_> = rows.iter().filter_map(bar).collect();
        if !all.is_empty() {
            html += &format!(
                "<h3>{title}</h3>{}<figure class=wide>{}</figure>",
                palette.legend(KEY),
                lying(&all, &palette, unit)
            );
        }
    }
    html
}

/// Cycles a load by how much is read round and round.
pub fn memory(rows: &[&Value]) -> String {
    let columns = [
        ("side_by_side", "lines side by side"),
        ("buffers", "one line of each packet buffer"),
        ("buffers_on_large_pages", "the same on pages of 2 MiB"),
    ];
    let mut palette = Palette::default();
    let group = |row: &&Value| {
        let kib = row["kib"].as_u64()?;
        let size = match kib < 1024 {
            true => format!("{kib} KiB of lines"),
            false => format!("{} MiB of lines", kib >> 10),
        };
        let bars: Vec<Vec<Bar>> = columns
            .iter()
            .filter_map(|(column, name)| {
                Some(vec![Bar {
                    series: palette.of(name),
                    value: number(row, column)?,
                    mark: None,
                }])
            })
            .collect();
        Some((size, bars)).filter(|(_, bars)| !bars.is_empty())
    };
    let groups: Vec<_> = rows.iter().filter_map(group).collect();
    if groups.is_empty() {
        return String::new();
    }
    format!(
        "<h3>What a load takes</h3>{}<figure class=wide>{}</figure>",
        palette.legend("<span>each load waits for the one before it, in random order</span>"),
        lying(
            &groups,
            &palette,
            "cycles a load, by the bytes of all lines that are read round and round"
        )
    )
}
