//! Many at once: all run, all go, and the machine is as it was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hull_testkit::{Baseline, Host, Options};

use super::ports::{page, serve};
use super::{executables, host};

/// Does the work for each number below `count`, sixteen at a time.
fn at_once(count: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

#[test]
fn two_hundred_containers_sixteen_at_a_time_run_and_go() {
    let host = host();
    // The first start and stop create what stays for good (parent cgroups).
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    at_once(200, &|number| {
        host.hull(&["run", "-d", "--name", &format!("c{number}"), "busybox", "sleep", "1000"]).ok();
    });
    assert_eq!(host.hull(&["ps", "-q"]).ok().lines().count(), 200);
    at_once(200, &|number| {
        let name = format!("c{number}");
        match number % 2 {
            0 => host.hull(&["rm", "-f", &name]).ok().to_owned(),
            _ => host.docker(&["rm", "-f", &name]).ok().to_owned(),
        };
    });
    assert_eq!(host.hull(&["ps", "-aq"]).ok(), "");
    before.returns(&host);
}

const NETWORKS: usize = 100;
const CONTAINERS: usize = 50;
/// Of each container.
const PLACES: usize = 10;

/// The networks that a container is on: five containers on each, and hardly two with the same others.
fn networks_of(container: usize) -> impl Iterator<Item = usize> {
    (0..PLACES).map(move |place| (2 * container + 11 * place) % NETWORKS)
}

/// Every second network has IPv6.
fn has_ipv6(network: usize) -> bool {
    network.is_multiple_of(2)
}

/// What `inspect` says: addresses of both families, by container and network.
fn addresses(host: &Host) -> HashMap<(usize, usize), [String; 2]> {
    let names: Vec<String> = (0..NETWORKS).map(|number| format!("n{number}")).collect();
    let format = "{{.Name}}{{range .Containers}} {{.Name}}={{.IPv4Address}}={{.IPv6Address}}{{end}}";
    let words: Vec<&str> =
        ["network", "inspect", "-f", format].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut all = HashMap::new();
    for line in host.hull(&words).ok().lines() {
        let mut words = line.split(' ');
        let network = words.next().unwrap()[1..].parse().unwrap();
        for member in words {
            let mut parts = member.split('=');
            let container = parts.next().unwrap()[1..].parse().unwrap();
            let mut address = || parts.next().unwrap().split('/').next().unwrap().to_owned();
            all.insert((container, network), [address(), address()]);
        }
    }
    assert_eq!(all.len(), CONTAINERS * PLACES);
    all
}

/// Whom a container asks on a network: they ask each other in pairs, and the odd one out asks the
/// first. In a ring all would know two neighbours, a thousand in all: as many as the kernel keeps for
/// all network namespaces together (`gc_thresh3`, arp(7)), so that none were left for other tests.
fn partner(container: usize, network: usize) -> usize {
    let on_it = |other: &usize| networks_of(*other).any(|one| one == network);
    let members: Vec<usize> = (0..CONTAINERS).filter(on_it).collect();
    let place = members.iter().position(|member| *member == container).unwrap();
    members[if place ^ 1 < members.len() { place ^ 1 } else { 0 }]
}

/// Every `step`th container finds its partner on each of its networks by name, and gets an echo from
/// the address that `inspect` shows, by every family of the network.
fn reach_their_neighbours(host: &Host, all: &HashMap<(usize, usize), [String; 2]>, step: usize) {
    at_once(CONTAINERS / step, &|number| {
        let container = number * step;
        let mut script = String::new();
        for network in networks_of(container) {
            let other = partner(container, network);
            let [v4, v6] = &all[&(other, network)];
            for (family, address) in [(4, v4), (6, v6)].into_iter().filter(|(_, address)| !address.is_empty())
            {
                script += &format!(
                    "ping -{family} -c 1 -W 5 c{other}.n{network} 2>&1 | grep -q '64 bytes from {address}:' || \
                     echo c{other}.n{network}, {address}\n"
                );
            }
        }
        let lost = host.hull(&["exec", &format!("c{container}"), "sh", "-c", &script]);
        assert_eq!(lost.ok(), "", "c{container} does not reach");
    });
}

/// Asked of one container on each network: of every fifth, as they are spread over the networks.
fn all_is_there(host: &Host, addresses: &HashMap<(usize, usize), [String; 2]>) {
    reach_their_neighbours(host, addresses, 5);
    for container in (0..CONTAINERS).step_by(7) {
        let url = format!("http://127.0.0.1:{}/", 20_000 + container);
        assert_eq!(page(host, &url), format!("c{container}"));
    }
    // c0 is on no odd network with an even tens digit: n21's containers are strangers.
    let stranger = addresses.iter().find(|((_, network), _)| *network == 21).unwrap().1;
    host.hull(&["exec", "c0", "ping", "-c", "1", "-W", "1", &stranger[0]]).fails(1, "");
}

/// How many elements a set or map of the table `inet hull` has.
fn elements(host: &Host, kind: &str, name: &str) -> usize {
    let text = host.printed(&["nft", "list", kind, "inet", "hull", name]);
    text.split_once("elements = {").map_or(0, |(_, list)| list.split(',').count())
}

#[test]
#[allow(clippy::print_stdout, reason = "the times of its steps are for whoever asks for them")]
fn a_hundred_networks_and_five_hundred_endpoints() {
    let begin = Instant::now();
    let step = |what: &str| println!("{:5.1} s: {what}", begin.elapsed().as_secs_f64());
    let pool = ["--default-address-pool", "base=10.128.0.0/10,size=24"];
    let daemon = pool.iter().map(|&word| word.to_owned()).collect();
    let mut host = Host::start(executables(), Options { daemon, ..Options::default() });
    host.busybox();
    // What comes with the first of its kind stays: the forwarder, and with IPv6 its forwarding.
    host.hull(&["network", "create", "--ipv6", "early"]).ok();
    serve(&host, "first", &["--network", "early", "-p", "20000:80"]);
    host.hull(&["rm", "-f", "first"]).ok();
    host.hull(&["network", "rm", "early"]).ok();
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    let before = Baseline::of(&host);
    step("a machine");
    at_once(NETWORKS, &|number| {
        let name = format!("n{number}");
        let mut words = vec!["network", "create", name.as_str()];
        words.extend(has_ipv6(number).then_some("--ipv6"));
        host.hull(&words).ok();
    });
    step("networks");
    at_once(CONTAINERS, &|container| {
        // One at every address, so that the forwarder is there and goes on.
        let at = if container == 0 { "" } else { "127.0.0.1:" };
        let published = format!("{at}{}:80", 20_000 + container);
        let networks: Vec<String> = networks_of(container).map(|network| format!("n{network}")).collect();
        let mut words = vec!["-p", published.as_str()];
        words.extend(networks.iter().flat_map(|name| ["--network", name.as_str()]));
        serve(&host, &format!("c{container}"), &words);
    });
    step("containers");
    let places = addresses(&host);
    reach_their_neighbours(&host, &places, 1);
    all_is_there(&host, &places);
    assert_eq!(elements(&host, "set", "bridges"), NETWORKS + 1);
    assert_eq!(elements(&host, "set", "home6"), NETWORKS / 2);
    assert_eq!(elements(&host, "map", "at4"), CONTAINERS - 1);
    let (rules, links) = (host.rules(), host.links());
    step("all reach their neighbours");
    host.kill_daemon();
    host.start_daemon();
    step("another daemon");
    assert_eq!(addresses(&host), places);
    all_is_there(&host, &places);
    assert!(host.rules() == rules, "other rules than before");
    step("every network is there");
    host.printed(&["nft", "flush", "ruleset"]);
    let flushed = Instant::now();
    while host.rules() != rules {
        assert!(flushed.elapsed() < Duration::from_secs(10), "the rules were not made again");
    }
    println!("         rules made again within {:?}", flushed.elapsed());
    all_is_there(&host, &places);
    step("every network is there");
    // Nobody's link was made anew or lost on the way.
    let outer = |links: &[String]| links.iter().filter(|name| *name != "veth").cloned().collect::<Vec<_>>();
    assert_eq!(outer(&host.links()), outer(&links));
    at_once(CONTAINERS, &|container| {
        host.hull(&["rm", "-f", &format!("c{container}")]).ok();
    });
    step("containers gone");
    assert_eq!(host.hull(&["network", "prune", "-f"]).ok().lines().count(), NETWORKS + 1);
    step("networks gone");
    // Namespaces are kept ready for the networks that were used last: the default one is among them again.
    host.hull(&["run", "--rm", "busybox", "true"]).ok();
    before.returns(&host);
    step("as before");
}
