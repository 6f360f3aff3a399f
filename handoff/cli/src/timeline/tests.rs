//! Every kind of record, drawn.

use handoff_svg::Font;

use super::draw;
use crate::record::{
    End, Outcome, Party, Phase, Probation, SwapEvent, SwapEventKind, SwapRecord, Trigger,
};

#[test]
fn a_committed_swap() {
    let record = swap(&WAY, Some(Outcome::Committed));
    let svg = drawn(&record);
    shows(&svg, &["Swap 1a2b3c4d committed", "2026-11-28T04:42:26.123Z", "kvd 1.4.2, pid 100, "]);
    shows(&svg, &["pause 12.0 ms", "PrepareHandoff", "Drained", "SealRequest", "SealComplete"]);
    shows(&svg, &["Begin", "Ready", "Serving", "leaves", "takes the lock, opens, verifies"]);
    assert_eq!(texts(&svg).iter().filter(|text| text.shown == "Commit").count(), 2);
    assert!(!svg.contains("ResumeAfterAbort") && !svg.contains("cause"));
}

/// Whatever phase is too narrow for its name has a number there and its name in the table.
#[test]
fn every_phase_is_named() {
    let svg = drawn(&swap(&WAY, Some(Outcome::Committed)));
    for (_, phase) in WAY {
        shows(&svg, &[phase.name()]);
    }
    shows(&svg, &["20 µs", "3003.20"]);
    assert_eq!(texts(&svg).iter().filter(|text| text.shown == "6").count(), 2, "bar and table");
}

#[test]
fn a_swap_rolled_back_from_each_phase() {
    let phases = [
        Phase::Draining,
        Phase::Prepared,
        Phase::Sealing,
        Phase::Sealed,
        Phase::Opening,
        Phase::Ready,
        Phase::Committing,
    ];
    for phase in phases {
        let mut way: Vec<_> = WAY.iter().copied().take_while(|(_, at)| *at != phase).collect();
        way.push((3_020_000, phase));
        if [Phase::Opening, Phase::Ready, Phase::Committing].contains(&phase) {
            way.push((3_025_000, Phase::EndingSuccessor));
        }
        way.extend([(3_026_000, Phase::RollingBack), (3_033_030, Phase::RolledBack)]);
        let mut record = swap(&way, Some(Outcome::RolledBack));
        fail(&mut record, "it cannot open <users> & \"orders\"");
        // The first phase starts the clock of the pause.
        let pause = if phase == Phase::Draining { "pause 13.0 ms" } else { "pause 33.0 ms" };
        let svg = drawn(&record);
        shows(&svg, &[pause, "ResumeAfterAbort", "echo", "serves again", "ended"]);
        shows(&svg, &["cause: it cannot open &lt;users&gt; &amp; &quot;orders&quot;"]);
        assert!(!svg.contains(">Serving<") && !svg.contains("leaves"));
        assert_eq!(svg.contains(">kill<"), way.iter().any(|(_, at)| *at == Phase::EndingSuccessor));
    }
}

#[test]
fn a_seal_that_was_asked_for_ahead() {
    let way: Vec<_> = WAY.iter().copied().filter(|(_, phase)| *phase != Phase::Prepared).collect();
    let svg = drawn(&swap(&way, Some(Outcome::Committed)));
    shows(&svg, &["PrepareHandoff", "Drained", "SealComplete"]);
    assert!(!svg.contains("SealRequest"), "nothing was said in between");
}

/// Halfway through the drain: so begins the yellow of both panels.
#[test]
fn a_gate_that_closes_late_in_the_drain() {
    let mut record = swap(&WAY, Some(Outcome::Committed));
    record.steps.push(SwapEvent { at_us: 3_001_615, what: SwapEventKind::GateClosed });
    let svg = drawn(&record);
    shows(&svg, &["pause 10.4 ms", "Gate: closed at +3.00 s; clients wait from there on"]);
    let before = drawn(&swap(&WAY, Some(Outcome::Committed)));
    let wide = |svg: &str| {
        let pauses = svg.lines().filter(|line| line.contains("fill-opacity=\"0.45\""));
        let pauses = pauses.filter_map(|line| attribute(line, "width")?.parse::<f64>().ok());
        pauses.fold(0.0, f64::max)
    };
    assert!(wide(&svg) < wide(&before), "{} and {}", wide(&svg), wide(&before));
}

#[test]
fn a_promoted_one() {
    let mut way = WAY[..6].to_vec();
    way.extend([(3_005_000, Phase::Promoting), (3_090_030, Phase::Promoted)]);
    let mut record = swap(&way, Some(Outcome::Promoted));
    fail(&mut record, "the incumbent died");
    let svg = drawn(&record);
    shows(&svg, &["the old process died, the successor serves", "pause 90.0 ms", "dead", "Begin"]);
    shows(&svg, &["promoting the successor", "Serving", "cause: the incumbent died"]);
}

/// Its last phase is called Phase::RolledBack as well, but nobody confirmed it.
#[test]
fn no_pause_is_over_before_somebody_serves() {
    let mut way = WAY[..8].to_vec();
    way.extend([(3_010_000, Phase::RollingBack), (3_090_030, Phase::RolledBack)]);
    for (outcome, state, pause) in [
        (Outcome::Lost, "dead", "clients wait: nobody serves"),
        (Outcome::Unknown, "has not confirmed", "clients wait, for all that is known"),
    ] {
        let svg = drawn(&swap(&way, Some(outcome)));
        shows(&svg, &[state, pause]);
        assert!(
            !svg.contains("pause 90") && !svg.contains("serves again") && !svg.contains("echo")
        );
    }
}

#[test]
fn one_that_touched_nothing() {
    let way =
        [&WAY[..3], &[(3_000_100, Phase::RollingBack), (3_001_000, Phase::RolledBack)]].concat();
    let mut dry = swap(&way, Some(Outcome::DryRun));
    dry.dry_run = true;
    let mut empty = swap(&[], Some(Outcome::NotBegun));
    empty.steps.clear();
    for (record, title, state) in [
        (dry, "Dry run 1a2b3c4d warmed up", "ended"),
        (swap(&way, Some(Outcome::NotBegun)), "was not begun", "ended"),
        (empty, "was not begun", "not started"),
    ] {
        let svg = drawn(&record);
        shows(&svg, &[title, state, "The phases: "]);
        assert!(!svg.contains("serves again") && !svg.contains("pause "), "{svg}");
    }
}

#[test]
fn one_in_flight() {
    let mut record = swap(&WAY[..4], None);
    record.steps.push(SwapEvent {
        at_us: 18_000_030,
        what: SwapEventKind::Waiting {
            open_conns: 3,
            connections: vec!["backup".into()],
            unnamed: 2,
        },
    });
    let svg = drawn(&record);
    shows(&svg, &["is in flight", "clients wait, 15000 ms so far", "in flight"]);
    shows(&svg, &["3 connections open (backup, 2 more)"]);
    record.steps.clear();
    shows(&drawn(&record), &["is in flight", "pairing", "not started"]);
}

#[test]
fn one_whose_supervisor_was_killed() {
    for (outcome, state) in [
        (Outcome::Committed, "leaves"),
        (Outcome::RolledBack, "serves again"),
        (Outcome::Lost, "dead"),
        (Outcome::Unknown, "not known"),
    ] {
        let mut record = swap(&WAY[..8], Some(outcome));
        record.end.iter_mut().for_each(|end| end.took_us = 12_000_030);
        let svg = drawn(&record);
        shows(&svg, &[state, "No step is recorded between the start of phase 9 and the end."]);
        assert!(svg.contains("stroke-dasharray"));
        assert!(!svg.contains("echo") && !svg.contains("Serving"), "nobody heard that");
        let is_over = matches!(outcome, Outcome::Committed | Outcome::RolledBack);
        assert_eq!(svg.contains("pause of at most 9000 ms"), is_over);
    }
}

#[test]
fn a_probation_that_failed() {
    let mut record = swap(&WAY, Some(Outcome::Committed));
    record.probation = Some(Probation::Failed { why: "503 from /healthz".into() });
    shows(&drawn(&record), &["probation failed: 503 from /healthz"]);
}

#[test]
fn a_long_cause_is_cut_and_whole_in_the_tooltip() {
    let mut record = swap(&WAY, Some(Outcome::RolledBack));
    let cause = format!("{} and the last word", "why it is so ".repeat(200));
    fail(&mut record, &cause);
    let svg = drawn(&record);
    shows(&svg, &["…"]);
    assert!(svg.contains(&format!("<title>cause: {cause}</title>")));
    assert_eq!(texts(&svg).iter().filter(|text| text.shown.contains("why it is")).count(), 3);
}

#[test]
fn hostile_texts() {
    let hostile = "<script>&\"']]>\0\u{1}\u{1b}[31m\u{202e}\u{ffff}\n\t";
    let mut record = swap(&[(9, Phase::Draining)], Some(Outcome::RolledBack));
    fail(&mut record, hostile);
    record.id = hostile.into();
    record.from.binary = format!("{hostile}{}/end", "/long".repeat(100));
    record.to = Party { build: Some("b".repeat(500)), ..Party::default() };
    record.trigger = Trigger::Probation { of: hostile.into() };
    let svg = drawn(&record);
    shows(&svg, &["/long/end", "&lt;script&gt;&amp;", "\u{fffd}"]);
    let is_allowed = |c: char| c == '\n' || !(c.is_control() || "\u{202e}\u{ffff}".contains(c));
    assert!(svg.chars().all(is_allowed) && !svg.contains("<script"));
    let empty = SwapRecord { id: String::new(), from: Party::default(), ..record };
    drawn(&empty);
}

#[test]
fn hostile_numbers() {
    let names = [
        Phase::Draining,
        Phase::Sealing,
        Phase::RolledBack,
        Phase::Draining,
        Phase::Promoting,
        Phase::Committed,
    ];
    for times in
        [[0; 6], [1; 6], [u64::MAX; 6], [u64::MAX, 0, 7, 7, 3, 1], [1, 2, 3, 4, 5, u64::MAX]]
    {
        for outcome in [None, Some(Outcome::Committed), Some(Outcome::Unknown)] {
            let way: Vec<_> = times.into_iter().zip(names).collect();
            let mut record = swap(&way, outcome);
            record.begun_ms = u64::MAX;
            let svg = drawn(&record);
            let is_rounding_error = |text: &Text| text.shown.contains("00000000000001");
            assert!(!texts(&svg).iter().any(is_rounding_error), "{svg}");
            record.steps.reverse();
            shows(&drawn(&record), &["18446744073709551615 ms after 1970"]);
        }
    }
}

#[test]
fn hundreds_of_steps() {
    let way: Vec<_> = WAY.iter().cycle().take(700).copied().collect();
    let svg = drawn(&swap(&way, None));
    shows(&svg, &["and 677 phases more"]);
    assert!(texts(&svg).len() < 300, "{}", texts(&svg).len());
}

/// The incumbent is above the supervisor, and the successor below.
#[test]
fn arrows_point_at_who_is_told() {
    let svg = drawn(&swap(&WAY, Some(Outcome::Committed)));
    let lines: Vec<_> = svg.lines().collect();
    for (message, is_upwards) in [
        ("PrepareHandoff", true),
        ("Drained", false),
        ("SealRequest", true),
        ("SealComplete", false),
        ("Begin", false),
        ("Ready", true),
        ("Serving", true),
    ] {
        let label = lines.iter().position(|line| line.contains(&format!(">{message}<")));
        let arrow = lines[label.expect("a label") - 1];
        let points = attribute(arrow, "points").expect("an arrow before its label");
        let heights = points.split([' ', ',']).skip(1).step_by(2).map(str::parse::<f64>);
        let heights: Vec<_> = heights.map(|height| height.expect("a height")).collect();
        assert_eq!(heights[0] < heights[1], is_upwards, "{message}: {points}");
    }
}

/// What is drawn of a record; it is well-formed, and its labels are where they can be read.
fn drawn(record: &SwapRecord) -> String {
    let svg = draw(record);
    assert_is_balanced(&svg);
    let number = |name: &str| attribute(&svg, name).and_then(|number| number.parse().ok());
    let (width, height): (f64, f64) = number("width").zip(number("height")).expect("a size");
    let texts = texts(&svg);
    assert!(texts.len() > 20, "{svg}");
    for (index, text) in texts.iter().enumerate() {
        let is_inside = text.left >= 0.0 && text.right <= width && text.y <= height - 3.0;
        assert!(is_inside && text.y >= 10.0, "outside: {text:?} of {width} x {height}");
        for other in &texts[index + 1..] {
            let is_beside = text.right < other.left || other.right < text.left;
            let is_apart = (text.y - other.y).abs() >= 11.0;
            assert!(is_beside || is_apart, "{text:?} and {other:?} overlap");
        }
    }
    svg
}

/// Each tag is closed where it has to be, and no text contains what would begin another.
fn assert_is_balanced(svg: &str) {
    let (_, body) = svg.split_once("?>").expect("a declaration");
    let mut open = Vec::new();
    for piece in body.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("no end: {piece}"));
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).expect("a name");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "{tag} closes"),
            (false, false) => open.push(name),
            (false, true) => {}
        }
        assert!(!text.contains('>'), "{text}");
        for entity in text.split('&').skip(1) {
            let entity = entity.split_once(';').map(|(entity, _)| entity);
            assert!(matches!(entity, Some("lt" | "gt" | "amp" | "quot" | "apos")), "{text}");
        }
    }
    assert!(open.is_empty(), "open at the end: {open:?}");
}

#[derive(Debug)]
struct Text {
    shown: String,
    left: f64,
    right: f64,
    y: f64,
}

fn texts(svg: &str) -> Vec<Text> {
    let of = |line: &str| {
        let number = |name| attribute(line, name)?.parse::<f64>().ok();
        let font = Font::sized(number("font-size")?);
        let font = if attribute(line, "font-weight").is_some() { font.bold() } else { font };
        let font = match attribute(line, "text-anchor")? {
            "middle" => font.centred(),
            "end" => font.ending(),
            _ => font,
        };
        let shown = line.split_once('>')?.1.strip_suffix("</text>")?.to_owned();
        let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'")];
        let plain = entities.iter().fold(shown.clone(), |text, (from, to)| text.replace(from, to));
        let (left, right) = font.extent(number("x")?, &plain.replace("&amp;", "&"));
        Some(Text { shown, left, right, y: number("y")? })
    };
    let lines = svg.lines().filter(|line| line.starts_with("<text "));
    lines.map(|line| of(line).unwrap_or_else(|| panic!("no text: {line}"))).collect()
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn shows(svg: &str, expected: &[&str]) {
    let texts = texts(svg);
    for expected in expected {
        let is_shown = texts.iter().any(|text| text.shown.contains(expected));
        assert!(is_shown, "{expected:?} is not shown: {texts:#?}");
    }
}

fn swap(way: &[(u64, Phase)], outcome: Option<Outcome>) -> SwapRecord {
    let launched = SwapEvent { at_us: 800, what: SwapEventKind::Launched { pid: 101 } };
    let entered = way.iter().map(|(at_us, phase)| SwapEvent {
        at_us: *at_us,
        what: SwapEventKind::Entered { phase: *phase },
    });
    let party = |binary: &str, build: &str, pid| Party {
        binary: binary.into(),
        build: Some(build.into()),
        pid: Some(pid),
        ..Party::default()
    };
    SwapRecord {
        id: "1a2b3c4d5e6f708192a3b4c5d6e7f801".into(),
        begun_ms: 1_795_840_946_123,
        trigger: Trigger::Operator { uid: 0, pid: 4711 },
        dry_run: false,
        one_way: false,
        from: party("/usr/lib/kvd/1.4.2/kvd", "kvd 1.4.2", 100),
        to: party("/usr/lib/kvd/1.5.0/kvd", "kvd 1.5.0", 101),
        listeners: Vec::new(),
        steps: [launched].into_iter().chain(entered).collect(),
        end: outcome.map(|outcome| End {
            outcome,
            took_us: 3_100_000,
            admitted_us: None,
            cause: None,
            carried: Vec::new(),
        }),
        probation: None,
    }
}

fn fail(record: &mut SwapRecord, cause: &str) {
    record.end.iter_mut().for_each(|end| end.cause = Some(cause.into()));
}

const WAY: [(u64, Phase); 11] = [
    (4_100, Phase::Paired),
    (4_150, Phase::Warming),
    (3_000_000, Phase::Warmed),
    (3_000_030, Phase::Draining),
    (3_003_200, Phase::Prepared),
    (3_003_220, Phase::Sealing),
    (3_008_900, Phase::Sealed),
    (3_008_930, Phase::Opening),
    (3_011_100, Phase::Ready),
    (3_011_150, Phase::Committing),
    (3_012_030, Phase::Committed),
];
