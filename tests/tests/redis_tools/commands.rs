//! What the tools ask is answered, before a swap and after it.

use crate::kvd::{Kvd, number, words_of};

#[test]
fn redis_cli_is_answered() {
    let mut kvd = Kvd::start();
    for (command, answer) in [
        (&["ping"][..], "PONG"),
        (&["ping", "hello"], "hello"),
        (&["echo", "a b"], "a b"),
        (&["set", "key", "value"], "OK"),
        (&["get", "key"], "value"),
        (&["get", "none"], ""),
        (&["incr", "n"], "1"),
        (&["incr", "n"], "2"),
        (&["dbsize"], "2"),
        (&["set", "text", "abc"], "OK"),
        (&["del", "text", "none"], "1"),
        (&["get", "text"], ""),
        (&["quit"], "OK"),
    ] {
        assert_eq!(kvd.cli(command), answer, "{command:?}");
    }
    assert!(kvd.cli(&["info"]).contains("kvd_build:1"), "{}", kvd.cli(&["info"]));
    assert!(kvd.cli(&["config", "get", "save"]).starts_with("save"));
    assert_eq!(kvd.cli(&["command"]), "");
    for (command, complaint) in [
        (&["incr", "key"][..], "ERR value is not an integer or out of range"),
        (&["nonsense"], "ERR unknown command"),
        (&["get"], "ERR wrong number of arguments"),
    ] {
        let answer = kvd.cli(command);
        assert!(answer.contains(complaint), "{command:?}: {answer}");
    }
    assert_eq!(kvd.session("set a 1\nincr a\nget a\n"), "OK\n2\n2");
    kvd.swap();
    assert!(kvd.cli(&["info"]).contains("kvd_build:2"), "{}", kvd.cli(&["info"]));
    assert_eq!(kvd.session("get a\nincr a\ndbsize\n"), "2\n3\n3");
}

#[test]
fn redis_benchmark_runs_to_its_end() {
    let mut kvd = Kvd::start();
    for arguments in [
        &["-c", "50", "-n", "20000", "-t", "ping,get"][..],
        &["-c", "50", "-n", "5000", "-t", "set,incr"],
        &["-c", "50", "-n", "20000", "-P", "16", "-t", "set,get", "-r", "1000"],
    ] {
        let output = kvd.benchmark(arguments).output().expect("redis-benchmark is installed");
        let words = words_of(&output);
        let rates = words.matches("requests per second").count();
        assert!(rates >= 2, "{arguments:?}: {words}");
        println!("{}", words.replace('\r', "\n"));
    }
    let keys: u32 = kvd.cli(&["dbsize"]).parse().expect("a number");
    assert!(keys > 900, "{keys} of 1000 random keys were set");
    kvd.swap();
    assert_eq!(kvd.cli(&["dbsize"]), keys.to_string());
}

#[test]
fn the_cache_is_warm_after_a_swap_and_after_one_that_failed() {
    let mut kvd = Kvd::start();
    for n in 0..20 {
        assert_eq!(kvd.cli(&["set", &format!("k{n}"), "old"]), "OK");
        assert_eq!(kvd.cli(&["get", &format!("k{n}")]), "old");
    }
    let cache = |kvd: &Kvd| {
        let info = kvd.info();
        (number(&info, "cache_carried"), number(&info, "cache_hits"))
    };
    assert_eq!(cache(&kvd), (0, 0));
    kvd.swap();
    assert_eq!(cache(&kvd), (20, 0));
    for n in 0..20 {
        assert_eq!(kvd.cli(&["get", &format!("k{n}")]), "old");
    }
    assert_eq!(cache(&kvd), (20, 20));
    kvd.fail_to_swap();
    assert_eq!(kvd.cli(&["get", "k0"]), "old");
    assert_eq!(cache(&kvd), (20, 21));
    assert_eq!(kvd.cli(&["set", "k0", "new"]), "OK");
    kvd.swap();
    assert_eq!(cache(&kvd), (19, 0));
    assert_eq!(kvd.cli(&["get", "k0"]), "new");
    assert_eq!(cache(&kvd), (19, 0));
}
