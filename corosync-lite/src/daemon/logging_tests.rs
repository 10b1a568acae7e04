use super::*;
use crate::config::Document;
use crate::host::ThisHost;

fn settings(text: &str) -> Settings {
    let text = format!("logging {{\n{text}\n}}\n");
    let document = Document::parse(text.as_bytes()).unwrap();
    Settings::read(&Keys::read(&document, &ThisHost).unwrap())
}

#[test]
fn defaults_are_those_of_corosync() {
    let settings = Settings::default();
    assert_eq!(settings.rules, Rules::default());
    assert!(settings.rules.to_stderr && settings.rules.to_syslog);
    assert_eq!(settings.timestamp, Timestamp::Milliseconds);
    assert_eq!(settings.most(), 6);
}

#[test]
fn a_file_needs_a_path_and_the_switch() {
    assert_eq!(settings("  to_logfile: yes").rules.file, None);
    assert_eq!(settings("  logfile: /x").rules.file, None);
    let both = settings("  to_logfile: yes\n  logfile: /x\n  logfile_priority: err");
    assert_eq!(both.rules.file, Some(PathBuf::from("/x")));
    assert_eq!(
        (both.rules.file_priority, both.rules.syslog_priority),
        (3, 6)
    );
}

#[test]
fn debug_raises_priorities_also_of_one_subsystem() {
    let settings = settings(
        "  to_stderr: no\n  syslog_facility: local3\n  syslog_priority: warning\n  \
         logger_subsys {\n    subsys: QUORUM\n    debug: on\n  }\n  \
         logger_subsys {\n    subsys: KNET\n    debug: trace\n    to_syslog: no\n  }",
    );
    assert_eq!((settings.rules.facility, settings.rules.most()), (19, 4));
    assert!(settings.rules("QUORUM").reaches_syslog(DEBUG));
    assert!(!settings.rules("TOTEM").reaches_syslog(DEBUG));
    assert_eq!(settings.rules("QUORUM").facility, 19);
    assert_eq!(settings.rules("KNET").most(), 0);
    assert_eq!(settings.rules("TOTEM"), &settings.rules);
    assert_eq!(settings.most(), DEBUG);
}

#[test]
fn a_subsystem_can_be_left_out_of_debugging() {
    let settings = settings("  debug: on\n  logger_subsys {\n    subsys: CPG\n    debug: off\n  }");
    assert_eq!(
        (settings.rules.most(), settings.rules("CPG").most()),
        (DEBUG, 6)
    );
}

#[test]
fn lines_pass_through_the_thread_in_order() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("log");
    let rules = Rules {
        to_stderr: false,
        to_syslog: false,
        file: Some(path.clone()),
        ..Rules::default()
    };
    let settings = Arc::new(Settings {
        rules,
        timestamp: Timestamp::Off,
        ..Settings::default()
    });
    let sinks = Sinks::open(Arc::clone(&settings), false);
    let log = Log(Arc::new(Shared {
        settings: RwLock::new(settings),
        way: Mutex::new(Way::Direct(Box::new(sinks))),
    }));
    let subscriber = Registry::default().with(ToLog(log.clone()));
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(target: "TOTEM", "before");
        log.start_thread().unwrap();
        for number in 0..100 {
            tracing::warn!(target: "KNET", link = number, "word {number}");
        }
        tracing::debug!(target: "KNET", "not seen");
    });
    log.finish();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 101, "{text}");
    assert_eq!(lines[0], "notice  [TOTEM ] before");
    assert_eq!(lines[100], "warning [KNET  ] word 99 link=99");
}
