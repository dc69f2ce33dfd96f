//! What is made of a request, and what is refused.

use super::*;

fn pools() -> Vec<Pool> {
    ipam::default_pools([0x2b, 0x56, 0x24, 0x11, 0x0e])
}

fn asked(name: &str) -> Create {
    Create { name: name.to_owned(), ..Create::default() }
}

fn with_pool(name: &str, pools: &[PoolRequest]) -> Create {
    Create { pools: pools.to_vec(), ..asked(name) }
}

fn pool(subnet: &str) -> PoolRequest {
    PoolRequest { subnet: subnet.to_owned(), ..PoolRequest::default() }
}

/// A host on which networks come into being one after the other.
#[derive(Default)]
struct House {
    records: Vec<Arc<Record>>,
    routes: Vec<IpNet>,
}

impl House {
    fn try_make(&self, create: &Create) -> Result<(Record, Vec<String>)> {
        let id = format!("{:012x}{:052x}", self.records.len() + 1, 0);
        record(
            &id,
            create,
            World { records: &self.records, routes: &self.routes, links: &[], pools: &pools() },
            7,
        )
    }

    fn make(&mut self, create: &Create) -> Arc<Record> {
        let made = Arc::new(self.try_make(create).unwrap().0);
        self.records.push(Arc::clone(&made));
        made
    }

    #[track_caller]
    fn refuses(&self, create: &Create, class: crate::Class, text: &str) {
        let error = self.try_make(create).unwrap_err();
        assert_eq!((error.class(), error.to_string().as_str()), (class, text));
    }
}

fn shown(record: &Record) -> String {
    let one = |subnet: &Subnet| format!("{} {}", subnet.pool, subnet.gateway.unwrap());
    record.network.subnets.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn subnets_are_given_where_none_were_asked_for() {
    let mut house = House { routes: vec!["172.18.0.0/24".parse().unwrap()], ..House::default() };
    assert_eq!(shown(&house.make(&asked("a"))), "172.17.0.0/16 172.17.0.1");
    assert_eq!(shown(&house.make(&asked("b"))), "172.19.0.0/16 172.19.0.1");
    let six = Create { ipv6: Some(true), ..asked("c") };
    assert_eq!(shown(&house.make(&six)), "172.20.0.0/16 172.20.0.1, fd2b:5624:110e::/64 fd2b:5624:110e::1");
    let asked_six = Create { ipv6: Some(true), ..with_pool("d", &[pool("fd00:1::/64")]) };
    assert_eq!(shown(&house.make(&asked_six)), "fd00:1::/64 fd00:1::1, 172.21.0.0/16 172.21.0.1");
    let only_six = Create { ipv4: Some(false), ipv6: Some(true), ..asked("e") };
    assert_eq!(shown(&house.make(&only_six)), "fd2b:5624:110e:1::/64 fd2b:5624:110e:1::1");
}

#[test]
fn what_was_chosen_is_kept() {
    let mut house = House::default();
    let request = PoolRequest {
        range: "10.80.5.0/24".into(),
        gateway: "10.80.0.1".into(),
        reserved: [("r".to_owned(), "10.80.0.5".to_owned())].into(),
        ..pool("10.80.0.0/16")
    };
    let made = house.make(&with_pool("n2", &[request, pool("10.81.0.0/24")]));
    assert_eq!(shown(&made), "10.80.0.0/16 10.80.0.1, 10.81.0.0/24 10.81.0.1");
    assert_eq!(made.gateways, ["10.80.0.1".parse().unwrap()].into());
    assert!(made.network.subnets.iter().all(|subnet| subnet.asked));
    house.refuses(
        &with_pool("n3", &[pool("10.80.1.0/24")]),
        crate::Class::Forbidden,
        "invalid pool request: Pool overlaps with other one on this address space",
    );
    house.refuses(
        &with_pool("n3", &[pool("10.99.0.0/16"), pool("10.99.1.0/24")]),
        crate::Class::Forbidden,
        "invalid pool request: Pool overlaps with other one on this address space",
    );
}

#[test]
fn every_fault_of_a_pool_is_told() {
    let house = House::default();
    let refuses = |request: PoolRequest, text: &str| {
        house.refuses(
            &with_pool("n", &[request]),
            crate::Class::Invalid,
            &format!("invalid network config:\n{text}"),
        );
    };
    refuses(pool("10.81.0.1/24"), "invalid subnet 10.81.0.1/24: it should be 10.81.0.0/24");
    refuses(pool("nonsense"), "invalid subnet nonsense: invalid CIDR block notation");
    let base = || pool("10.82.0.0/24");
    refuses(
        PoolRequest { gateway: "10.83.0.1".into(), ..base() },
        "invalid gateway 10.83.0.1: parent subnet 10.82.0.0/24 doesn't contain this address",
    );
    refuses(PoolRequest { gateway: "x".into(), ..base() }, "invalid gateway x: invalid address");
    refuses(
        PoolRequest { gateway: "fd00::1".into(), ..base() },
        "invalid gateway fd00::1: parent subnet is an IPv4 block",
    );
    refuses(
        PoolRequest { range: "10.82.0.0/16".into(), ..base() },
        "invalid ip-range 10.82.0.0/16: CIDR block is bigger than its parent subnet 10.82.0.0/24",
    );
    refuses(
        PoolRequest { range: "10.99.0.0/28".into(), ..base() },
        "invalid ip-range 10.99.0.0/28: parent subnet 10.82.0.0/24 doesn't contain ip-range",
    );
    refuses(
        PoolRequest {
            range: "x".into(),
            reserved: [("r".to_owned(), "10.0.0.1".to_owned())].into(),
            ..base()
        },
        "* invalid ip-range x: invalid CIDR block notation\n* invalid auxiliary address r: parent subnet 10.82.0.0/24 \
         doesn't contain this address",
    );
}

#[test]
fn names_and_drivers_are_the_references() {
    use crate::Class::{Conflict, Forbidden, Invalid, NotFound, NotImplemented};
    let mut house = House::default();
    house.make(&asked("n1"));
    let driver = |driver: &str| Create { driver: driver.to_owned(), ..asked("n3") };
    house.refuses(&asked("n1"), Conflict, "network with name n1 already exists");
    house.refuses(&asked(" "), Invalid, "invalid name: name is empty");
    house.refuses(&asked("bridge"), Forbidden, "operation is not permitted on predefined bridge network ");
    house.refuses(&driver("nosuch"), NotFound, "plugin \"nosuch\" not found");
    house.refuses(&driver("host"), Forbidden, "only one instance of \"host\" network is allowed");
    house.refuses(
        &driver("ipvlan"),
        NotImplemented,
        "the driver ipvlan comes in a later build: use macvlan or bridge",
    );
    house.refuses(
        &Create { ingress: true, ..asked("i") },
        Forbidden,
        "Ingress network can only be global scope network",
    );
    house.refuses(
        &Create { scope: "swarm".into(), ..asked("i") },
        Forbidden,
        "cannot create a swarm scoped network when swarm is not active",
    );
    house.refuses(&Create { ipv4: Some(false), ..asked("i") }, Invalid, "IPv4 or IPv6 must be enabled");
    house.refuses(
        &Create { ipam_driver: "nosuch".into(), ..asked("i") },
        NotFound,
        "plugin \"nosuch\" not found",
    );
}

#[test]
fn a_network_of_a_template_is_like_it() {
    let mut house = House::default();
    let template = Create { config_only: true, ..with_pool("co", &[pool("10.90.0.0/24")]) };
    let made = house.make(&template);
    assert_eq!(made.network.driver, Driver::Null);
    let from = Create { config_from: "co".into(), ..asked("cf") };
    let made = house.make(&from);
    assert_eq!((shown(&made).as_str(), made.gateways.len()), ("10.90.0.0/24 10.90.0.1", 0));
    house.refuses(
        &Create { config_from: "x".into(), ..asked("y") },
        crate::Class::NotFound,
        "configuration network \"x\" does not exist",
    );
    house.refuses(
        &Create { config_from: "cf".into(), ..asked("y") },
        crate::Class::Forbidden,
        "\"cf\" is not a configuration network",
    );
}

#[test]
fn a_subnet_of_a_family_that_is_off_is_named() {
    let house = House::default();
    let (made, warnings) = house.try_make(&with_pool("n", &[pool("fd00:1::/64")])).unwrap();
    assert_eq!(shown(&made), "172.17.0.0/16 172.17.0.1");
    assert_eq!(warnings, ["the subnet fd00:1::/64 is not used, for IPv6 is not enabled on this network"]);
}

#[test]
fn a_full_pool_says_what_to_do() {
    let house = House { routes: vec!["0.0.0.0/0".parse().unwrap()], ..House::default() };
    let error = house.try_make(&asked("n")).unwrap_err().to_string();
    assert!(error.starts_with("all predefined address pools have been fully subnetted: remove networks"));
}
