//! What a machine has when nothing runs on it, to be compared after the storm.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::host::Host;

/// Everything that could leak, as counts and names that a failing comparison can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Lines of the machine's mount table.
    pub mounts: Vec<String>,
    /// Folders below the machine's parent cgroup.
    pub cgroups: BTreeSet<String>,
    /// Names of the processes, counted.
    pub processes: Vec<String>,
    /// Namespaces of the whole machine that belong to processes of this one.
    pub namespaces: usize,
    /// Descriptors of the daemon and of the spawner.
    pub descriptors: Vec<(String, usize)>,
    /// Entries of the folders where containers live.
    pub entries: Vec<(String, usize)>,
    /// Names of the network links; of the outer ends of pairs, which are random, only how many.
    pub links: Vec<String>,
    /// The words of all rules and sets of the packet filter, in order: sets are listed in none.
    pub rules: Vec<String>,
    /// Containers, images and networks that the daemon lists.
    pub rows: [usize; 3],
}

impl Baseline {
    /// What is there once it holds still: a shim that is just leaving does not belong to it.
    pub fn of(host: &Host) -> Baseline {
        let mut last = Baseline::now(host);
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(100));
            let next = Baseline::now(host);
            if next == last {
                break;
            }
            last = next;
        }
        last
    }

    fn now(host: &Host) -> Baseline {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", host.holder_pid())).unwrap_or_default();
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect();
        let cgroups = host.cgroup_folders().iter().map(|folder| folder.display().to_string()).collect();
        let mut processes = Vec::new();
        let mut namespaces = BTreeSet::new();
        let mut descriptors = Vec::new();
        for pid in host.processes() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            for entry in fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten() {
                namespaces.extend(fs::read_link(entry.path()));
            }
            // Clients of the test come and go; the daemon and the spawner stay.
            if name.starts_with("hull") {
                let count = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                descriptors.push((name.clone(), count));
            }
            processes.push(name);
        }
        processes.sort();
        descriptors.sort();
        let folders = [
            host.data_root().join("containers"),
            host.data_root().join("image/active"),
            host.data_root().join("image/ingest"),
            host.data_root().join("volumes"),
            host.data_root().join("volumes/.trash"),
            host.exec_root().join("c"),
            host.exec_root().join("x"),
        ];
        let entries = folders.map(|folder| {
            let count = fs::read_dir(&folder).map_or(0, Iterator::count);
            (folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(), count)
        });
        let lines = |words: &[&str]| host.hull(words).ok().lines().count();
        let rows = [lines(&["ps", "-aq"]), lines(&["images", "-q"]), lines(&["network", "ls", "-q"])];
        Baseline {
            mounts,
            cgroups,
            processes,
            namespaces: namespaces.len(),
            descriptors,
            entries: entries.to_vec(),
            links: host.links(),
            rules: host.rules(),
            rows,
        }
    }

    /// Waits until the machine is as it was: what is torn down behind the scenes needs a moment.
    /// Panics with the difference after fifteen seconds.
    #[track_caller]
    pub fn returns(&self, host: &Host) {
        let start = Instant::now();
        loop {
            let now = Baseline::now(host);
            if now == *self {
                return;
            }
            if start.elapsed() > crate::patience(15) {
                let (came, went) = (beyond(&now.rules, &self.rules), beyond(&self.rules, &now.rules));
                assert!(came.is_empty() && went.is_empty(), "rules that came: {came:?}, that went: {went:?}");
                let (mut now, mut before) = (now, self.clone());
                now.rules.clear();
                before.rules.clear();
                assert_eq!(now, before, "left: what is there now; right: what was there before");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The words of one list, in order, that the other has less often.
fn beyond<'a>(these: &'a [String], those: &[String]) -> Vec<&'a str> {
    let mut rest = those.iter().peekable();
    let mut more = Vec::new();
    for word in these {
        while rest.next_if(|other| *other < word).is_some() {}
        if rest.next_if(|other| *other == word).is_none() {
            more.push(word.as_str());
        }
    }
    more
}
