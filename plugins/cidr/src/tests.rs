use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::data_type::conforms;
use proptest::prelude::*;

use super::*;

fn cidr(text: &str) -> Datum {
    CidrType.parse(&text.into()).unwrap_or_else(|error| panic!("{text}: {error}")).into()
}

#[test]
fn an_address_is_the_network_of_itself() {
    for (given, canonical) in [
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1/128", "::1"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
    ] {
        assert_eq!(cidr(given).as_typed().expect("a network").text(), canonical);
    }
}

#[test]
fn what_is_no_network_is_refused() {
    let refusal = |value: &Datum| CidrType.parse(value).expect_err("a mistake").to_string();
    for given in ["", "10.0.0", "10.0.0.0/33", "10.0.0.256", "x", "10.0.0.0/", "::1/129", "fe80::1%eth0"] {
        let message = refusal(&given.into());
        assert!(message.contains(&format!("{given:?}")) && message.contains("write it as"), "{message}");
    }
    let message = refusal(&"10.1.2.3/8".into());
    assert!(message.contains("\"10.0.0.0/8\"") && message.contains("\"10.1.2.3\""), "{message}");
    assert!(refusal(&1.into()).contains("found NUMBER"));
    let error = CidrType.operate(Operator::Add, &cidr("::1"), &1.into()).expect_err("no arithmetic").to_string();
    assert!(error.contains("no arithmetic: PTYPE<CIDR> + NUMBER"), "{error}");
}

#[test]
fn containment_and_edges() {
    let harness = Harness::start(Networks);
    for (network, other, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "10.0.0.0/8", true),
        ("10.0.0.0/8", "10.4.0.0/16", true),
        ("10.4.0.0/16", "10.0.0.0/8", false),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("::/0", "10.0.0.1", false),
    ] {
        let found = harness.call("cidr_contains", &[cidr(network), other.into()]);
        assert_eq!(found, Ok(expected.into()), "{network} {other}");
    }
    assert_eq!(harness.call("cidr_first", &["10.0.0.0/8".into()]), Ok(cidr("10.0.0.0")));
    assert_eq!(harness.call("cidr_last", &["10.0.0.0/8".into()]), Ok(cidr("10.255.255.255")));
}

fn networks() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        // Few bits, so that networks contain each other.
        (0_u32..8, 0..=32_u8).prop_map(|(bits, length)| IpNet::new(IpAddr::from((bits << 29).to_be_bytes()), length)),
        (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| IpNet::new(IpAddr::from(bits.to_be_bytes()), length)),
        (any::<u128>(), 0..=128_u8).prop_map(|(bits, length)| IpNet::new(IpAddr::from(bits.to_be_bytes()), length)),
    ]
    .prop_map(|network| network.expect("a length within the version's").trunc())
}

proptest! {
    #[test]
    fn what_a_network_contains_stands_between_its_edges(outer in networks(), inner in networks()) {
        let value = |network: IpNet| typed(network).expect("a value");
        let (low, high) = (value(outer), value(outer.broadcast().into()));
        let within = value(inner);
        let between = low.order_key() <= within.order_key() && within.order_key() <= high.order_key();
        // A wider network may begin where this one does, but then it stands before it.
        prop_assert_eq!(between, outer.contains(&inner), "{} {}", outer, inner);
    }

    #[test]
    fn it_is_a_data_type(networks in prop::collection::vec(networks(), 1..20)) {
        let texts: Vec<Datum> = networks.iter().map(|network| Datum::from(network.to_string())).collect();
        conforms(&CidrType, &texts);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-9a-f:./ %]{0,60}") {
        let _ = CidrType.parse(&text.into());
    }
}
