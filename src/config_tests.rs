//! Tests of reading the configuration.

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn faults(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    match Config::parse("worker-config.toml", text, variables(pairs)) {
        Ok(_) => Vec::new(),
        Err(invalid) => {
            invalid.faults.iter().map(|fault| format!("{}: {}", fault.place, fault.reason)).collect()
        }
    }
}

#[test]
fn the_shipped_file_lists_every_key_with_its_default() {
    let text = include_str!("../worker-config.toml");
    let shipped = Config::parse("worker-config.toml", text, []).unwrap();
    let (shipped, default) =
        (serde_json::to_value(&shipped).unwrap(), serde_json::to_value(Config::default()).unwrap());
    assert_eq!(shipped, default);
    let written: toml::Table = text.parse().unwrap();
    for (section, keys) in default.as_object().unwrap() {
        for (key, value) in keys.as_object().unwrap() {
            // TOML cannot say "not set": such a key stands in a comment.
            let there = match value.is_null() {
                true => text.contains(&format!("\n# {key} = ")),
                false => written[section].get(key).is_some(),
            };
            assert!(there, "{section}.{key} is not in worker-config.toml");
        }
    }
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let text = "[worker]\nslots = 0\nbuild_timeout = \"soon\"\nslotz = 3\n\n[wroker]\na = 1\n[publish]\ngzip_level = 99\n";
    let found = faults(text, &[("BUILDGRID_LOGGING__FORMAT", "xml"), ("BUILDGRID_NO__SUCH", "1")]);
    let expect = [
        "worker-config.toml:2: worker.slots: 0 is out of range",
        "worker-config.toml:3: worker.build_timeout:",
        "worker-config.toml:4: worker.slotz: unknown field `slotz`",
        "worker-config.toml:6: section [wroker] is not known",
        "worker-config.toml:9: publish.gzip_level: 99 is not a level",
        "BUILDGRID_LOGGING__FORMAT: logging.format: unknown variant `xml`",
        "BUILDGRID_NO__SUCH: section [no] is not known",
    ];
    for start in expect {
        assert!(found.iter().any(|fault| fault.starts_with(start)), "{start} is not in {found:#?}");
    }
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn two_keys_that_do_not_go_together_have_the_place_of_what_was_set() {
    let sentence = "worker.max_build_timeout, 6h, is shorter than worker.build_timeout, 8h";
    assert_eq!(
        faults("[worker]\nbuild_timeout = \"8h\"\n", &[]),
        [format!("worker-config.toml:2: {sentence} (worker.max_build_timeout has its default)")]
    );
    let both = "[worker]\nbuild_timeout = \"8h\"\nmax_build_timeout = \"6h\"\n";
    assert_eq!(faults(both, &[]), [format!("worker-config.toml:3: {sentence}")]);
    assert_eq!(
        faults("", &[("BUILDGRID_WORKER__BUILD_TIMEOUT", "8h")]),
        [format!("BUILDGRID_WORKER__BUILD_TIMEOUT: {sentence} (worker.max_build_timeout has its default)")]
    );
}

#[test]
fn unreadable_files_are_faults_with_a_line() {
    let found = faults("[worker]\nslots = = 3\n", &[]);
    assert!(found[0].starts_with("worker-config.toml:2: "), "{found:?}");
    let found = faults("worker = 3\n", &[]);
    assert!(found[0].contains("must be a section"), "{found:?}");
    let error = Config::load(Some(Path::new("/no/such/file.toml"))).unwrap_err().to_string();
    assert!(error.contains("/no/such/file.toml"), "{error}");
}

#[test]
fn variables_override_the_file() {
    let text = "[worker]\nslots = 4\nname = \"a\"\n";
    let pairs = [
        ("BUILDGRID_WORKER__NAME", "007"),
        ("BUILDGRID_WORKER__BUILD_TIMEOUT", "90s"),
        ("BUILDGRID_FAKE__NAMESPACES", "[\"smoke\", \"ci\"]"),
        ("BUILDGRID_CONFIG", "elsewhere.toml"),
    ];
    let config = Config::parse("f", text, variables(&pairs)).unwrap();
    assert_eq!((config.worker.slots, config.worker.name.as_str()), (4, "007"));
    assert_eq!(config.worker.build_timeout.as_secs(), 90);
    assert_eq!(config.fake.namespaces.len(), 2);
}

#[test]
fn systemd_waits_longer_than_a_drain_takes_and_can_reload() {
    let setting = |unit: &str, key: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{key} is not in the unit")).to_owned()
    };
    let config = Config::default();
    let timeline_drain = crate::web::DRAIN;
    for (unit, drain, spare) in [
        (include_str!("../systemd/buildgrid-worker.service"), config.worker.drain_timeout, 300),
        (include_str!("../systemd/buildgrid-registry.service"), config.registry.drain_timeout, 15),
        (include_str!("../systemd/buildgrid-timeline.service"), timeline_drain, 15),
    ] {
        let time = |key| humantime_serde::re::humantime::parse_duration(&setting(unit, key)).unwrap();
        // Beside running builds, results are told, logs sent and connections closed.
        assert!(time("TimeoutStopSec") >= drain + std::time::Duration::from_secs(spare), "{unit}");
        // After the watchdog has struck, nobody drains.
        assert!(time("TimeoutAbortSec") <= time("WatchdogSec"), "{unit}");
        assert_eq!(setting(unit, "Type"), "notify");
        assert_eq!(setting(unit, "ExecReload"), "/bin/kill -HUP $MAINPID");
        assert_eq!(setting(unit, "Restart"), "on-failure", "the watchdog's end among them");
        assert!(!unit.contains("SendSIGKILL=no"), "what does not end by itself must end");
    }
    let worker = include_str!("../systemd/buildgrid-worker.service");
    assert_eq!(setting(worker, "KillMode"), "mixed", "only the worker is told to drain");
}
