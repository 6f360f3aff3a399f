//! The legend of the colours, the table of the phases, and notes on them.

use handoff_svg::{Font, Svg};

use crate::record::{SwapEventKind, SwapRecord};
use crate::timeline::story::{Mood, Story};
use crate::timeline::{MARGIN, OUTLINE, PAUSE, SMALL, WIDTH};
use crate::units::{brief, column_ms};

pub(super) fn table(svg: &mut Svg, story: &Story, record: &SwapRecord, top: f64) -> f64 {
    let mut y = legend(svg, top + 10.0) + 10.0;
    let mut row = |svg: &mut Svg, font: Font, cells: [&str; 6]| {
        for ((x, next), cell) in COLUMNS.windows(2).map(|x| (x[0], x[1])).zip(cells) {
            svg.text((x, y), font, &font.fit(cell, next - x - 6.0));
        }
        y += 15.0;
    };
    row(svg, SMALL.bold(), ["#", "phase", "start, ms", "length", "incumbent", "successor"]);
    for (index, phase) in story.scenes.iter().enumerate().take(MAX_ROWS) {
        let (number, start) = ((index + 1).to_string(), column_ms(phase.from));
        let took = match story.length(index) {
            Some(us) if phase.is_cut => format!("up to {}", brief(us)),
            Some(us) => brief(us),
            None if record.end.is_none() => "in flight".into(),
            None => String::new(),
        };
        let (incumbent, successor) = (phase.incumbent.label, phase.successor.label);
        row(svg, SMALL, [&number, phase.of.name(), &start, &took, incumbent, successor]);
    }
    let mut y = y + 3.0;
    for note in notes(story, record) {
        let shown = SMALL.fit(&note, WIDTH - 2.0 * MARGIN);
        svg.tooltip(&note, |svg| svg.text((MARGIN, y), SMALL, &shown));
        y += 15.0;
    }
    y - 6.0
}

fn legend(svg: &mut Svg, y: f64) -> f64 {
    let entries = [
        ("serves", Mood::Serves.paint()),
        ("works", Mood::Works.paint()),
        ("waits", Mood::Waits.paint()),
        ("gone", Mood::Gone.paint()),
        ("not known", Mood::Unknown.paint()),
        ("clients wait", PAUSE),
    ];
    let mut x = MARGIN;
    for (name, paint) in entries {
        svg.rect((x, y - 9.0), (16.0, 11.0), &format!("{paint} {OUTLINE}"));
        svg.text((x + 21.0, y), SMALL, name);
        x += 21.0 + SMALL.width(name) + 18.0;
    }
    y + 10.0
}

/// Notes that explain a phase that took long.
fn notes(story: &Story, record: &SwapRecord) -> Vec<String> {
    let (mut gate, mut waiting, mut late, mut sealed) = (None, None, None, None);
    for step in &record.steps {
        let at = brief(step.at_us);
        match &step.what {
            SwapEventKind::GateClosed => {
                gate = Some(format!("Gate: closed at +{at}; clients wait from there on"));
            }
            SwapEventKind::Waiting { open_conns, connections, unnamed } => {
                let open =
                    format!("{open_conns} connections open ({})", list(connections, *unnamed));
                waiting = Some(format!("Drain, at {at}: {open}"));
            }
            SwapEventKind::Late { connections, unnamed } => {
                late = Some(format!("Late, at {at}: {}", list(connections, *unnamed)));
            }
            SwapEventKind::Sealing { sealed: done, total } => {
                sealed = Some(format!("Seal, at {at}: {done} of {total} shards sealed"));
            }
            SwapEventKind::Launched { .. }
            | SwapEventKind::Entered { .. }
            | SwapEventKind::GivenUp { .. } => {}
        }
    }
    let more = story.scenes.len().saturating_sub(MAX_ROWS);
    let more = (more > 0).then(|| format!("and {more} phases more"));
    let cut = story.scenes.iter().position(|phase| phase.is_cut).map(|index| index + 1);
    let cut = cut.map(|number| {
        format!("No step is recorded between the start of phase {number} and the end.")
    });
    let mut notes: Vec<_> =
        [more, gate, waiting, late, sealed, cut].into_iter().flatten().collect();
    let carried = record.end.iter().flat_map(|end| &end.carried);
    notes.extend(carried.take(MAX_CARRIED_NOTES).map(|carried| format!("Carried: {carried}")));
    notes
}

fn list(names: &[String], unnamed: u32) -> String {
    let more = (unnamed > 0).then(|| format!("{unnamed} more"));
    names.iter().cloned().chain(more).collect::<Vec<_>>().join(", ")
}

/// The left edges of the columns, and the right one of the last.
const COLUMNS: [f64; 7] = [MARGIN, 34.0, 190.0, 268.0, 372.0, 502.0, WIDTH];
const MAX_ROWS: usize = 24;
const MAX_CARRIED_NOTES: usize = 4;
