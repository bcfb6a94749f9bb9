//! Which plots a report of each bench gets.

use super::parts;
use super::plot::{Across, Bar, Curve, Palette, bars, escape, lines, lying};
use super::words;
use serde_json::Value;
use std::fmt::Write;

/// The plots of a report; empty if nothing in it can be plotted.
pub fn plots(bench: &str, rows: &[&Value]) -> String {
    match bench {
        "path" => path(rows),
        "wire" => wire(rows),
        "scale" => scale(rows),
        "ebpf" => programs(rows),
        "anatomy" => parts::anatomy(rows),
        "memory" => parts::memory(rows),
        _ => engines(rows),
    }
}

pub fn number(row: &Value, column: &str) -> Option<f64> {
    row[column].as_f64().filter(|value| value.is_finite())
}

fn panels(figures: &[(String, String)]) -> String {
    let mut html = "<div class=panels>".to_owned();
    for (title, svg) in figures {
        let _ = write!(html, "<figure><figcaption>{title}</figcaption>{svg}</figure>");
    }
    html.push_str("</div>");
    html
}

/// Groups rows by what `key` says, in the order in which they come.
pub fn groups<'a, K: PartialEq>(rows: &[&'a Value], key: impl Fn(&Value) -> K) -> Vec<(K, Vec<&'a Value>)> {
    let mut groups: Vec<(K, Vec<&Value>)> = Vec::new();
    for row in rows {
        let key = key(row);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    groups
}

/// A figure's title, its groups of bars, and their unit.
type Figure = (String, Vec<(String, Vec<Bar>)>, String);

/// Cycles and instructions by burst, a bar a path and peer, and what the stages take.
fn path(rows: &[&Value]) -> String {
    const FLOOR: &str = "<span><i style=\"background:var(--mark);height:.2em;vertical-align:.25em\"></i>floor: a loop that \
                         only touches descriptors and the frame's first line</span>";
    let rows: Vec<&Value> = rows.iter().copied().filter(|row| row["burst"].is_u64()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = |row: &Value| {
        format!(
            "{} <small>{}, ring {}, {} metadata</small>",
            words(&row["scenario"]).replace('_', " "),
            words(&row["state"]),
            row["ring"],
            words(&row["metadata"])
        )
    };
    let mut palette = Palette::default();
    let mut figures = |column: &str, unit: &str| {
        let mut figures = Vec::new();
        for (title, rows) in groups(&rows, title) {
            let mut bursts: Vec<u64> = rows.iter().filter_map(|row| row["burst"].as_u64()).collect();
            bursts.sort_unstable();
            bursts.dedup();
            let group = |burst: &u64| {
                let of_burst = rows.iter().filter(|row| row["burst"].as_u64() == Some(*burst));
                let bars = of_burst.filter_map(|row| {
                    let value = number(row, column)?;
                    let floor = number(row, "vs_floor").filter(|_| column == "cycles_per_packet");
                    Some(Bar {
                        series: palette.of(row["path"].as_str()?),
                        value,
                        mark: floor.map(|times| value / times),
                    })
                });
                (burst.to_string(), bars.collect::<Vec<_>>())
            };
            let groups: Vec<_> = bursts
                .iter()
                .map(group)
                .filter(|(_, bars)| !bars.is_empty())
                .collect();
            if !groups.is_empty() {
                figures.push((title, groups, unit.to_owned()));
            }
        }
        figures
    };
    let cycles = figures("cycles_per_packet", "cycles");
    let instructions = figures("instructions_per_packet", "instructions");
    let draw = |figures: Vec<Figure>| -> Vec<(String, String)> {
        let plot = |groups: &[_], unit: &str| bars(groups, &palette, "frames a poll", unit);
        let figures = figures.into_iter();
        figures
            .map(|(title, groups, unit)| (title, plot(&groups, &unit)))
            .collect()
    };
    let mut html = String::new();
    if !cycles.is_empty() {
        let _ = write!(
            html,
            "<h3>Core cycles a packet</h3>{}{}{}",
            scenarios(&rows),
            palette.legend(FLOOR),
            panels(&draw(cycles))
        );
    }
    if !instructions.is_empty() {
        let _ = write!(
            html,
            "<h3>Instructions a packet</h3>{}{}",
            palette.legend(""),
            panels(&draw(instructions))
        );
    }
    html + &stages(&rows)
}

/// What is done with the frames in the scenarios that there are.
fn scenarios(rows: &[&Value]) -> String {
    const ABOUT: [(&str, &str); 5] = [
        ("rx_drop", "receive, and drop what came"),
        ("forward", "receive, swap the MAC addresses, send"),
        ("tx", "send frames that lie ready"),
        (
            "chain",
            "receive, run a program on the JIT, sort by verdict, choose one of two TX queues by the hash, send",
        ),
        (
            "worker",
            "what chain does, by a whole worker of the framework: counters, captures to look for, two queues to poll",
        ),
    ];
    let present = |name: &str| rows.iter().any(|row| row["scenario"] == name);
    let mut html = "<ul>".to_owned();
    for (name, about) in ABOUT.into_iter().filter(|(name, _)| present(name)) {
        let _ = write!(html, "<li><b>{}</b>: {about}</li>", name.replace('_', " "));
    }
    html.push_str("</ul>");
    html
}

/// What the stages of each row take, where that was measured.
fn stages(rows: &[&Value]) -> String {
    let mut html = String::new();
    for (column, title) in [
        ("cycles_per_packet", "Where the cycles go"),
        ("instructions_per_packet", "Where the instructions go"),
    ] {
        let mut palette = Palette::default();
        let mut groups = Vec::new();
        for row in rows {
            let shares = row["breakdown"].as_array().into_iter().flatten();
            let pieces: Vec<Bar> = shares
                .filter_map(|share| {
                    Some(Bar {
                        series: palette.of(share["stage"].as_str()?),
                        value: number(share, column)?,
                        mark: None,
                    })
                })
                .collect();
            // One stage alone is the whole, which stands above.
            if pieces.len() > 1 {
                let name = format!(
                    "{}, burst {}, {}, {}",
                    row["scenario"].as_str().unwrap_or_default().replace('_', " "),
                    row["burst"],
                    row["state"].as_str().unwrap_or_default(),
                    row["path"].as_str().unwrap_or_default()
                );
                groups.push((name, vec![pieces]));
            }
        }
        if !groups.is_empty() {
            let unit = "a packet; each stage by itself, so together they are somewhat more than the whole";
            let _ = write!(
                html,
                "<h3>{title}</h3>{}<figure class=wide>{}</figure>",
                palette.legend(""),
                lying(&groups, &palette, unit)
            );
        }
    }
    html
}

/// Throughput, loss and delays.
fn wire(rows: &[&Value]) -> String {
    let of = |test: &str| -> Vec<&Value> { rows.iter().copied().filter(|row| row["test"] == test).collect() };
    let size = |row: &Value| row["size"].as_u64().unwrap_or(0);
    let mut html = String::new();
    let mut palette = Palette::default();
    const TESTS: [(&str, &str); 2] = [
        ("throughput", "two ports: the highest rate without loss"),
        ("model", "models alone: what one core of them carries"),
    ];
    let mut by_size: Vec<(String, Vec<Bar>)> = Vec::new();
    for (bytes, rows) in groups(rows, size) {
        let bar = |(test, name): (&str, &str)| {
            let row = rows.iter().find(|row| row["test"] == test)?;
            let value = number(row, "mpps")?;
            Some(Bar {
                series: palette.of(name),
                value,
                mark: None,
            })
        };
        let bars: Vec<Bar> = TESTS.into_iter().filter_map(bar).collect();
        if !bars.is_empty() {
            by_size.push((format!("{bytes} B"), bars));
        }
    }
    let mut figures = Vec::new();
    if !by_size.is_empty() {
        figures.push((
            "frames a second by size".to_owned(),
            bars(&by_size, &palette, "frame size", "million frames a second"),
        ));
    }
    let legend = palette.legend("");
    let mut sizes = Palette::default();
    let curves: Vec<Curve> = groups(&of("loss"), size)
        .into_iter()
        .map(|(bytes, rows)| Curve {
            series: sizes.of(&format!("{bytes} bytes")),
            dashed: false,
            points: points(&rows, "load_percent", "loss_percent"),
        })
        .collect();
    if !figures.is_empty() {
        let _ = write!(html, "<h3>Throughput</h3>{legend}{}", panels(&figures));
    }
    if !curves.is_empty() {
        let plot = lines(
            &curves,
            &sizes,
            Across::Even,
            false,
            "load, % of the highest rate",
            "% lost",
        );
        let _ = write!(
            html,
            "<h3>Frame loss</h3>{}{}",
            sizes.legend(""),
            panels(&[("frames lost by load".to_owned(), plot)])
        );
    }
    let latency = of("latency");
    if latency.iter().any(|row| row["delays"].is_array()) {
        let mut loads = Palette::default();
        let figures: Vec<_> = groups(&latency, size)
            .into_iter()
            .map(|(bytes, rows)| {
                let curves: Vec<Curve> = rows
                    .iter()
                    .map(|row| Curve {
                        series: loads.of(&format!(
                            "{:.0} % of the throughput",
                            number(row, "load_percent").unwrap_or(0.0)
                        )),
                        dashed: false,
                        points: pairs(&row["delays"]),
                    })
                    .collect();
                (bytes, curves)
            })
            .collect();
        let figures: Vec<_> = figures
            .into_iter()
            .map(|(bytes, curves)| {
                let plot = lines(
                    &curves,
                    &loads,
                    Across::Tail,
                    true,
                    "share of the frames",
                    "microseconds",
                );
                (format!("{bytes} bytes"), plot)
            })
            .collect();
        let _ = write!(
            html,
            "<h3>One-way delay</h3>{}{}",
            loads.legend("<span>each step to the right leaves a tenth of the frames</span>"),
            panels(&figures)
        );
    }
    html
}

fn points(rows: &[&Value], x: &str, y: &str) -> Vec<(f64, f64)> {
    let mut points: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((number(row, x)?, number(row, y)?)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn pairs(list: &Value) -> Vec<(f64, f64)> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|pair| Some((pair[0].as_f64()?, pair[1].as_f64()?)))
        .collect()
}

/// Packets a second by workers, beside the ideal.
fn scale(rows: &[&Value]) -> String {
    let mut palette = Palette::default();
    let mut curves: Vec<Curve> = groups(rows, |row| words(&row["sharing"]))
        .into_iter()
        .map(|(sharing, rows)| Curve {
            series: palette.of(&match sharing.as_str() {
                "one_port" => "queues of one port".to_owned(),
                _ => "ports that share nothing".to_owned(),
            }),
            dashed: false,
            points: points(&rows, "workers", "mpps"),
        })
        .collect();
    let Some(&(first, one)) = curves.first().and_then(|curve| curve.points.first()) else {
        return String::new();
    };
    let last = rows
        .iter()
        .filter_map(|row| number(row, "workers"))
        .fold(first, f64::max);
    curves.push(Curve {
        series: palette.of("ideal: so many times one worker"),
        dashed: true,
        points: vec![(first, one), (last, one / first * last)],
    });
    let plot = lines(
        &curves,
        &palette,
        Across::Even,
        false,
        "workers",
        "million packets a second",
    );
    format!(
        "<h3>Packets a second by workers</h3>{}{}",
        palette.legend(""),
        panels(&[("all workers together".to_owned(), plot)])
    )
}

/// Programs: machine code beside the kernel's, entry for one frame and for many, interpreters by their instructions.
fn programs(rows: &[&Value]) -> String {
    let interpreter = |row: &Value| row["engine"].as_str().is_some_and(|name| name.contains("interp"));
    let compiled: Vec<&Value> = rows.iter().copied().filter(|row| !interpreter(row)).collect();
    let interpreted: Vec<&Value> = rows.iter().copied().filter(|row| interpreter(row)).collect();
    let jit: Vec<&Value> = rows
        .iter()
        .copied()
        .filter(|row| row["engine"] == "jit")
        .collect();
    let engine = |row: &Value, _: &str| row["engine"].as_str().map(str::to_owned);
    let entry = |_: &Value, column: &str| {
        let name = match column {
            "single_ns" => "a frame a call",
            "batch_ns" => "64 frames a call",
            "cold_single_ns" => "a frame a call, frames in no cache",
            _ => "64 frames a call, frames in no cache",
        };
        Some(name.to_owned())
    };
    let ns = "nanoseconds of a run's own work";
    let whole = "nanoseconds a run, entry included";
    let entries = ["single_ns", "batch_ns", "cold_single_ns", "cold_batch_ns"];
    let each = "nanoseconds a BPF instruction";
    [
        side_by_side("Machine code", &compiled, &["ns"], engine, ns),
        side_by_side("Entering a program on the JIT", &jit, &entries, entry, whole),
        side_by_side(
            "Interpreters",
            &interpreted,
            &["ns_per_instruction"],
            engine,
            each,
        ),
    ]
    .concat()
}

/// A bar for each of `columns` of each row, a group a case; what a bar is drawn for is what `series` says.
fn side_by_side(
    title: &str,
    rows: &[&Value],
    columns: &[&str],
    series: impl Fn(&Value, &str) -> Option<String>,
    unit: &str,
) -> String {
    let mut palette = Palette::default();
    let mut all = Vec::new();
    for (name, rows) in groups(rows, case) {
        let cells = rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| (*row, *column)));
        let bars: Vec<Vec<Bar>> = cells
            .filter_map(|(row, column)| {
                let value = number(row, column)?;
                let series = palette.of(&series(row, column)?);
                Some(vec![Bar {
                    series,
                    value,
                    mark: None,
                }])
            })
            .collect();
        if !bars.is_empty() && !name.is_empty() {
            all.push((name.replace('_', " "), bars));
        }
    }
    if all.is_empty() {
        return String::new();
    }
    format!(
        "<h3>{}</h3>{}<figure class=wide>{}</figure>",
        escape(title),
        palette.legend(""),
        lying(&all, &palette, unit)
    )
}

/// What a row's case is called.
fn case(row: &Value) -> String {
    let name = ["case", "program", "name"]
        .iter()
        .find_map(|key| row[*key].as_str());
    name.unwrap_or_default().to_owned()
}

/// Cases side by side on engines: the balancer.
fn engines(rows: &[&Value]) -> String {
    let engine = |row: &Value, _: &str| {
        let name = row["engine"].as_str()?;
        Some(if name == "none" { "no program" } else { name }.to_owned())
    };
    let cycles = "cycles a packet";
    let instructions = "instructions a packet";
    [
        side_by_side(
            "Core cycles a packet",
            rows,
            &["cycles_per_packet"],
            engine,
            cycles,
        ),
        side_by_side(
            "Instructions a packet",
            rows,
            &["instructions_per_packet"],
            engine,
            instructions,
        ),
    ]
    .concat()
}
