use super::*;

fn parse(metrics: &str) -> Result<Config, ConfigError> {
    let text = format!(
        "control = \"/run/boardlane/c.sock\"\n{metrics}\n[[link]]\nname = \"bl0\"\n\
         transport = \"shm:/slot0.sock\"\n"
    );
    Config::parse("f.toml", &text, Role::Master)
}

#[test]
fn metrics_are_on_the_loopback_or_at_a_unix_socket() {
    assert_eq!(parse("").unwrap().metrics, None);
    for place in [
        "127.0.0.1:9477",
        "127.3.2.1:1",
        "[::1]:65535",
        "unix:/run/boardlane/master-metrics.sock",
        "unix:/elsewhere/m",
    ] {
        let config = parse(&format!("metrics = \"{place}\"")).unwrap();
        assert_eq!(config.metrics.as_ref().unwrap().to_string(), place);
        let again = Config::parse("f.toml", &config.expand(&[]), Role::Master).unwrap();
        assert_eq!(again, config);
    }
}

#[test]
fn what_others_could_reach_or_nobody_could_is_refused_with_a_remedy() {
    for (place, what, remedy) in [
        ("0.0.0.0:9477", "not of this machine's loopback", "put a reverse proxy in front of it"),
        ("[::]:9477", "not of this machine's loopback", "unix:/run/boardlane/metrics.sock"),
        ("10.77.0.1:9477", "not of this machine's loopback", "write 127.0.0.1:9477"),
        ("[::ffff:127.0.0.1]:9477", "not of this machine's loopback", "write 127.0.0.1:9477"),
        ("127.0.0.1:0", "has no port", "write the port"),
        ("127.0.0.1", "is not a place for metrics", "[::1]:9477"),
        ("localhost:9477", "is not a place for metrics", "write 127.0.0.1:9477"),
        ("/run/metrics.sock", "is not a place for metrics", "unix:/run/boardlane/metrics.sock"),
        ("unix:", "this is not the path of a socket", "write a file's path"),
        ("unix:/run/boardlane/c.sock", "this is the control socket", "or another path"),
        ("unix:/run/boardlane/m.sock", "would be taken for a daemon's", "end in metrics.sock"),
    ] {
        let text = parse(&format!("metrics = \"{place}\"")).unwrap_err().to_string();
        assert!(text.contains("f.toml:2:11: ") && text.contains(what), "{text}");
        assert!(text.contains(remedy), "{text}");
    }
    let text = parse("metrics = 9477").unwrap_err().to_string();
    assert!(text.contains("metrics is a whole number"), "{text}");
}
