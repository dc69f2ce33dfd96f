//! Chosen subnets and addresses, by example and by property.

use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subnet(pool: &str) -> Subnet {
    Subnet { pool: net(pool), range: None, gateway: None, reserved: Default::default(), asked: true }
}

fn pools() -> Vec<Pool> {
    default_pools([0x2b, 0x56, 0x24, 0x11, 0x0e])
}

#[test]
fn pools_are_cut_from_the_front() {
    let mut taken = Vec::new();
    let mut next = |ipv6| {
        let free = free_subnet(&pools(), ipv6, &taken).unwrap();
        taken.push(free);
        free.to_string()
    };
    let four: Vec<String> = (0..17).map(|_| next(false)).collect();
    assert_eq!(four[0], "172.17.0.0/16");
    assert_eq!(four[4], "172.21.0.0/16");
    assert_eq!(four[14], "172.31.0.0/16");
    assert_eq!(four[15..], ["192.168.0.0/20", "192.168.16.0/20"]);
    assert_eq!([next(true), next(true)], ["fd2b:5624:110e::/64", "fd2b:5624:110e:1::/64"]);
}

#[test]
fn what_the_host_uses_is_left_alone() {
    let first = |taken: &[&str]| {
        let taken: Vec<IpNet> = taken.iter().map(|text| net(text)).collect();
        free_subnet(&pools(), false, &taken).map(|net| net.to_string())
    };
    assert_eq!(first(&["172.17.5.0/24"]).unwrap(), "172.18.0.0/16");
    assert_eq!(first(&["172.16.0.0/12"]).unwrap(), "192.168.0.0/20");
    assert_eq!(first(&["172.16.0.0/12", "192.168.1.7/32"]).unwrap(), "192.168.16.0/20");
    assert_eq!(first(&["172.16.0.0/12", "192.168.0.0/16"]), None);
    assert_eq!(first(&["0.0.0.0/0"]), None);
}

#[test]
fn pools_of_one_address_and_of_all_of_them() {
    let all = Pool { base: net("::/0"), size: 0 };
    assert_eq!(free_subnet(&[all], true, &[]), Some(net("::/0")));
    assert_eq!(free_subnet(&[all], true, &[net("fd00::/8")]), None);
    let one = Pool { base: net("10.0.0.0/31"), size: 32 };
    assert_eq!(free_subnet(&[one], false, &[net("10.0.0.0/32")]), Some(net("10.0.0.1/32")));
    assert_eq!(free_subnet(&[one], false, &[net("10.0.0.0/31")]), None);
}

#[test]
fn the_lowest_free_address_behind_the_gateway() {
    let mut subnet = subnet("10.0.0.0/29");
    subnet.gateway = gateway(&subnet);
    assert_eq!(subnet.gateway, Some(ip("10.0.0.1")));
    let mut taken = BTreeSet::new();
    let mut given = Vec::new();
    while let Ok(net) = address_of(std::slice::from_ref(&subnet), false, None, &taken) {
        taken.insert(net.addr());
        given.push(net.to_string());
    }
    assert_eq!(given, ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"]);
    taken.remove(&ip("10.0.0.4"));
    assert_eq!(address_of(&[subnet], false, None, &taken), Ok(net_of("10.0.0.4", 29)));
}

fn net_of(address: &str, prefix: u8) -> IpNet {
    IpNet::new(ip(address), prefix).unwrap()
}

#[test]
fn ranges_and_reserved_addresses() {
    let mut subnet = subnet("10.80.0.0/16");
    subnet.range = Some(net("10.80.5.0/30"));
    subnet.gateway = Some(ip("10.80.0.1"));
    subnet.reserved = [("r".to_owned(), ip("10.80.5.1"))].into();
    let ask = |asked: Option<&str>, taken: &[&str]| {
        let taken = taken.iter().map(|text| ip(text)).collect();
        address_of(std::slice::from_ref(&subnet), false, asked.map(ip), &taken)
            .map(|net| net.addr().to_string())
    };
    assert_eq!(ask(None, &[]).unwrap(), "10.80.5.0");
    assert_eq!(ask(None, &["10.80.5.0"]).unwrap(), "10.80.5.2");
    assert_eq!(ask(None, &["10.80.5.0", "10.80.5.2", "10.80.5.3"]), Err(NoAddress::Full));
    // Asked for by name, it need not be in the range.
    assert_eq!(ask(Some("10.80.9.9"), &[]).unwrap(), "10.80.9.9");
    assert_eq!(ask(Some("10.80.9.9"), &["10.80.9.9"]), Err(NoAddress::InUse));
    assert_eq!(ask(Some("10.80.5.1"), &[]), Err(NoAddress::InUse));
    assert_eq!(ask(Some("10.80.0.1"), &[]), Err(NoAddress::InUse));
    assert_eq!(ask(Some("10.80.0.0"), &[]), Err(NoAddress::InUse));
    assert_eq!(ask(Some("10.80.255.255"), &[]), Err(NoAddress::InUse));
    assert_eq!(ask(Some("10.81.0.5"), &[]), Err(NoAddress::Outside));
}

#[test]
fn several_subnets_are_filled_one_after_the_other() {
    let subnets = [subnet("10.0.0.0/30"), subnet("fd00::/126"), subnet("10.1.0.0/30")];
    let ask = |six, taken: &[&str]| {
        let taken = taken.iter().map(|text| ip(text)).collect();
        address_of(&subnets, six, None, &taken).map(|net| net.to_string())
    };
    assert_eq!(ask(false, &["10.0.0.1", "10.0.0.2"]).unwrap(), "10.1.0.1/30");
    assert_eq!(ask(true, &[]).unwrap(), "fd00::1/126");
    assert_eq!(ask(true, &["fd00::1", "fd00::2"]).unwrap(), "fd00::3/126");
    assert_eq!(ask(true, &["fd00::1", "fd00::2", "fd00::3"]), Err(NoAddress::Full));
}

#[test]
fn point_to_point_subnets_have_no_broadcast() {
    assert_eq!(gateway(&subnet("10.0.0.0/31")), Some(ip("10.0.0.0")));
    assert_eq!(gateway(&subnet("10.0.0.7/32")), Some(ip("10.0.0.7")));
    assert_eq!(gateway(&subnet("fd00::/64")), Some(ip("fd00::1")));
    let mut taken = BTreeSet::new();
    taken.insert(ip("10.0.0.0"));
    assert_eq!(address_of(&[subnet("10.0.0.0/31")], false, None, &taken).unwrap().addr(), ip("10.0.0.1"));
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (0u32..1 << 20, 8u8..=32).prop_map(|(low, prefix)| {
        let address = Ipv4Addr::from(0xac00_0000 | (low << 4));
        IpNet::V4(Ipv4Net::new(address, prefix).unwrap().trunc())
    })
}

proptest! {
    /// Whatever is in the way, what is given is of the pool, of its size, and overlaps nothing;
    /// and nothing is given only if every subnet of the pool is in somebody's way.
    #[test]
    fn a_subnet_never_overlaps(taken in prop::collection::vec(any_net(), 0..40)) {
        let pool = Pool { base: net("172.16.0.0/12"), size: 16 };
        let found = free_subnet(&[pool], false, &taken);
        let all = (16u8..32).map(|second| net_of(&format!("172.{second}.0.0"), 16));
        let first = all.into_iter().find(|one| !taken.iter().any(|other| overlaps(one, other)));
        prop_assert_eq!(found, first);
    }

    /// Addresses are given once, all of them, lowest first, and never a reserved one.
    #[test]
    fn every_address_is_given_once(
        prefix in 24u8..=32,
        reserved in prop::collection::btree_set(0u32..256, 0..5),
        first_taken in prop::collection::btree_set(0u32..256, 0..20),
    ) {
        let mut subnet = subnet(&format!("10.9.8.0/{prefix}"));
        let base = u32::from(Ipv4Addr::new(10, 9, 8, 0));
        subnet.reserved = reserved
            .iter()
            .map(|last| (last.to_string(), IpAddr::from(Ipv4Addr::from(base + last))))
            .collect();
        subnet.gateway = gateway(&subnet);
        let mut taken: BTreeSet<IpAddr> =
            first_taken.iter().map(|last| Ipv4Addr::from(base + last).into()).collect();
        let mut last = None;
        while let Ok(given) = address_of(std::slice::from_ref(&subnet), false, None, &taken) {
            let given = given.addr();
            prop_assert!(Some(given) > last && subnet.pool.contains(&given));
            prop_assert!(Some(given) != subnet.gateway && !is_reserved(&subnet, given));
            last = Some(given);
            prop_assert!(taken.insert(given));
        }
        let (low, high) = usable(&subnet.pool);
        for number in low..=high {
            let one = address(number, false);
            prop_assert!(taken.contains(&one) || subnet.gateway == Some(one) || is_reserved(&subnet, one));
        }
    }
}

#[test]
fn what_is_taken_and_what_is_left() {
    let mut one = subnet("10.0.0.0/29");
    one.gateway = gateway(&one);
    assert_eq!(usage(&one, &BTreeSet::new()), Use { taken: 3, free: 5 });
    assert_eq!(usage(&one, &[ip("10.0.0.2"), ip("10.9.0.2")].into()), Use { taken: 4, free: 4 });
    one.range = Some(net("10.0.0.4/31"));
    assert_eq!(usage(&one, &[ip("10.0.0.4")].into()), Use { taken: 4, free: 1 });
    assert_eq!(usage(&subnet("::/0"), &BTreeSet::new()).free, u128::MAX);
}
