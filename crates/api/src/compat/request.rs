//! What a request of an older version of the API means in words of the newest.
//!
//! A field that came later than the request's version is ignored, as its engine ignored it, unless
//! somebody would then believe in a protection that is not there: that is refused. Defaults that
//! have changed are filled in as they were.

use std::collections::BTreeMap;

use crate::ApiVersion;
use crate::create::CreateRequest;
use crate::hostconfig::{HostConfig, Mount, PortBinding, UpdateRequest};
use crate::network::EndpointSettings;

/// Why a request cannot be made in its version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{field} needs API v1.{since} or newer")]
    Later { field: &'static str, since: u32 },
    #[error("Container cannot be created with multiple network endpoints: {}", .0.join(", "))]
    ManyNetworks(Vec<String>),
    #[error("conflicting options: mac-address and the network mode")]
    MacAddress,
    #[error(
        "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left \
         empty"
    )]
    TwoMacAddresses,
}

/// `POST /containers/create`. `unified` says that the host has the second kind of control groups
/// alone. The warnings are for the caller.
///
/// # Errors
/// What is asked for came with a later version and cannot be ignored.
pub fn create(version: ApiVersion, request: &mut CreateRequest, unified: bool) -> Result<Vec<String>, Unfit> {
    let host = &mut request.host_config;
    if version.before(25) {
        // Removing it was the client's business.
        host.auto_remove = false;
    }
    if version.before(40) && host.ipc_mode.is_empty() {
        "shareable".clone_into(&mut host.ipc_mode);
    }
    if version.before(40) || !version.before(52) {
        host.kernel_memory_tcp = 0;
    }
    if version.before(41) && host.cgroupns_mode.is_empty() && !unified {
        "host".clone_into(&mut host.cgroupns_mode);
    }
    if version.before(42) {
        host.console_size = [0, 0];
    }
    if version.before(43) {
        host.annotations = None;
    }
    for mount in host.mounts.iter_mut().flatten() {
        fit_mount(version, mount)?;
    }
    if version.before(44)
        && let Some(check) = &mut request.config.healthcheck
    {
        check.start_interval = 0;
    }
    let mut warnings = Vec::new();
    warnings.extend(networks(version, request)?);
    warnings.extend(port_bindings(version, &mut request.host_config));
    Ok(warnings)
}

fn fit_mount(version: ApiVersion, mount: &mut Mount) -> Result<(), Unfit> {
    if version.before(42) {
        // Options of another kind of mount were not looked at.
        mount.volume_options.take_if(|_| mount.kind != "volume");
        mount.tmpfs_options.take_if(|_| mount.kind != "tmpfs");
        mount.bind_options.take_if(|_| mount.kind != "bind");
    }
    if let Some(options) = &mut mount.bind_options {
        options.non_recursive &= !version.before(40);
        options.create_mountpoint &= !version.before(42);
        if version.before(44) {
            // Ignoring this would leave writable what the caller believes to be read-only.
            if options.read_only_force_recursive {
                return Err(Unfit::Later { field: "BindOptions.ReadOnlyForceRecursive", since: 44 });
            }
            options.read_only_non_recursive = false;
        }
    }
    if version.before(45) && mount.volume_options.as_ref().is_some_and(|options| !options.subpath.is_empty())
    {
        return Err(Unfit::Later { field: "VolumeOptions.Subpath", since: 45 });
    }
    if version.before(48) && mount.kind == "image" {
        return Err(Unfit::Later { field: "Mount type \"Image\"", since: 48 });
    }
    Ok(())
}

/// Whether a read-only bind leaves alone what is mounted below it unless the request says
/// otherwise: before 1.44 there was no other way.
pub fn read_only_at_top_alone(version: ApiVersion) -> bool {
    version.before(44)
}

/// One network before 1.44, no priorities before 1.48, and the container's own MAC address, which
/// became its main network's with 1.44 and is no field any more since 1.52.
fn networks(version: ApiVersion, request: &mut CreateRequest) -> Result<Option<String>, Unfit> {
    const MOVED: &str = "The container-wide MacAddress field is now deprecated. It should be specified in \
                         EndpointsConfig instead.";
    let endpoints = &mut request.networking_config.endpoints_config;
    if version.before(44)
        && let Some(endpoints) = endpoints.as_ref().filter(|endpoints| endpoints.len() > 1)
    {
        return Err(Unfit::ManyNetworks(endpoints.keys().cloned().collect()));
    }
    if version.before(48) {
        endpoints.iter_mut().flatten().for_each(|(_, endpoint)| endpoint.gw_priority = 0);
    }
    if !version.before(52) {
        request.config.mac_address = String::new();
        return Ok(None);
    }
    let address = request.config.mac_address.clone();
    if address.is_empty() {
        if version.before(44) {
            endpoints.iter_mut().flatten().for_each(|(_, endpoint)| endpoint.mac_address = String::new());
        }
        return Ok(None);
    }
    let mode = request.host_config.network_mode.as_str();
    let has_link = !matches!(mode, "none" | "host") && !mode.starts_with("container:");
    if !has_link {
        return if version.before(44) { Err(Unfit::MacAddress) } else { Ok(Some(MOVED.to_owned())) };
    }
    let endpoint = main_endpoint(endpoints.get_or_insert_default(), mode);
    if version.before(44) {
        endpoint.mac_address = address;
        return Ok(None);
    }
    if !endpoint.mac_address.is_empty() && endpoint.mac_address != address {
        return Err(Unfit::TwoMacAddresses);
    }
    endpoint.mac_address = address;
    Ok(Some(MOVED.to_owned()))
}

/// The endpoint of the network that the mode names; made if there is none.
fn main_endpoint<'a>(
    endpoints: &'a mut BTreeMap<String, EndpointSettings>,
    mode: &str,
) -> &'a mut EndpointSettings {
    let name = match mode {
        "" | "default" if endpoints.contains_key("default") => "default",
        "" | "default" => "bridge",
        name => name,
    };
    endpoints.entry(name.to_owned()).or_default()
}

/// An empty list of bindings asks for any port up to 1.52, and for nothing since.
fn port_bindings(version: ApiVersion, host: &mut HostConfig) -> Option<String> {
    let ports = host.port_bindings.as_mut()?;
    if !version.before(53) {
        ports.retain(|_, bindings| bindings.as_ref().is_some_and(|bindings| !bindings.is_empty()));
        return None;
    }
    let mut filled = Vec::new();
    for (port, bindings) in ports {
        if bindings.as_ref().is_none_or(Vec::is_empty) {
            *bindings = Some(vec![PortBinding::default()]);
            filled.push(port.as_str());
        }
    }
    (version == ApiVersion::new(1, 52) && !filled.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Starting with API 1.53, such bindings \
             will be discarded.",
            filled.join(", ")
        )
    })
}

/// `POST /containers/ID/update`.
pub fn update(version: ApiVersion, request: &mut UpdateRequest) {
    if version.before(40) {
        request.pids_limit = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostconfig::{BindOptions, VolumeOptions};

    fn at(minor: u32) -> ApiVersion {
        ApiVersion::new(1, minor)
    }

    /// What a body means in a version: the request and the warnings.
    fn fitted(minor: u32, body: &str) -> Result<(CreateRequest, Vec<String>), String> {
        let mut request = CreateRequest::decode(body.as_bytes()).unwrap();
        match create(at(minor), &mut request, false) {
            Ok(warnings) => Ok((request, warnings)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn fields_that_came_later_are_ignored_and_old_defaults_hold() {
        let body = r#"{"Image":"x","Healthcheck":{"StartInterval":7},"HostConfig":{"AutoRemove":true,
            "ConsoleSize":[3,4],"Annotations":{"a":"b"},"KernelMemoryTCP":9}}"#;
        let host = |minor| fitted(minor, body).unwrap().0.host_config;
        assert_eq!((host(24).auto_remove, host(25).auto_remove), (false, true));
        assert_eq!((host(39).ipc_mode.as_str(), host(40).ipc_mode.as_str()), ("shareable", ""));
        assert_eq!((host(40).cgroupns_mode.as_str(), host(41).cgroupns_mode.as_str()), ("host", ""));
        assert_eq!((host(41).console_size, host(42).console_size), ([0, 0], [3, 4]));
        assert_eq!((host(42).annotations.is_some(), host(43).annotations.is_some()), (false, true));
        let memory = |minor| host(minor).kernel_memory_tcp;
        assert_eq!((memory(39), memory(40), memory(51), memory(52)), (0, 9, 9, 0));
        let interval = |minor| fitted(minor, body).unwrap().0.config.healthcheck.unwrap().start_interval;
        assert_eq!((interval(43), interval(44)), (0, 7));
        let mut unified = CreateRequest::default();
        create(at(24), &mut unified, true).unwrap();
        assert_eq!(unified.host_config.cgroupns_mode, "");
    }

    #[test]
    fn options_of_mounts_are_ignored_or_refused_before_their_version() {
        let bind = || Mount {
            kind: "bind".to_owned(),
            bind_options: Some(BindOptions {
                non_recursive: true,
                create_mountpoint: true,
                read_only_non_recursive: true,
                ..BindOptions::default()
            }),
            volume_options: Some(VolumeOptions::default()),
            ..Mount::default()
        };
        let fit = |minor, mut mount: Mount| fit_mount(at(minor), &mut mount).map(|()| mount);
        let options = |minor| {
            let options = fit(minor, bind()).unwrap().bind_options.unwrap();
            (options.non_recursive, options.create_mountpoint, options.read_only_non_recursive)
        };
        assert_eq!(options(39), (false, false, false));
        assert_eq!(options(41), (true, false, false));
        assert_eq!(options(44), (true, true, true));
        assert!(fit(41, bind()).unwrap().volume_options.is_none());
        assert!(fit(42, bind()).unwrap().volume_options.is_some());
        let mut forced = bind();
        forced.bind_options = Some(BindOptions { read_only_force_recursive: true, ..BindOptions::default() });
        assert_eq!(
            fit(43, forced.clone()).unwrap_err().to_string(),
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"
        );
        assert!(fit(44, forced).is_ok());
        let image = Mount { kind: "image".to_owned(), ..Mount::default() };
        assert_eq!(
            fit(47, image.clone()).unwrap_err().to_string(),
            "Mount type \"Image\" needs API v1.48 or newer"
        );
        assert!(fit(48, image).is_ok());
        let options = VolumeOptions { subpath: "a".to_owned(), ..VolumeOptions::default() };
        let volume = Mount { kind: "volume".to_owned(), volume_options: Some(options), ..Mount::default() };
        assert_eq!(
            fit(44, volume.clone()).unwrap_err().to_string(),
            "VolumeOptions.Subpath needs API v1.45 or newer"
        );
        assert!(fit(45, volume).is_ok());
    }

    #[test]
    fn a_mac_address_belongs_to_the_main_network_since_1_44_and_to_nothing_else_since_1_52() {
        let body = r#"{"Image":"x","MacAddress":"02:00:00:00:00:01"}"#;
        let address = |minor, body| {
            let (request, warnings) = fitted(minor, body).unwrap();
            let endpoints = request.networking_config.endpoints_config.unwrap_or_default();
            (endpoints.get("bridge").map(|end| end.mac_address.clone()), warnings.len())
        };
        assert_eq!(address(43, body), (Some("02:00:00:00:00:01".to_owned()), 0));
        assert_eq!(address(44, body), (Some("02:00:00:00:00:01".to_owned()), 1));
        assert_eq!(address(52, body), (None, 0));
        assert!(fitted(52, body).unwrap().0.config.mac_address.is_empty());
        let none = r#"{"Image":"x","MacAddress":"02:00:00:00:00:01","HostConfig":{"NetworkMode":"none"}}"#;
        assert_eq!(fitted(43, none).unwrap_err(), "conflicting options: mac-address and the network mode");
        assert_eq!(address(44, none), (None, 1));
        let own = r#"{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"02:00:00:00:00:02"}}}}"#;
        assert_eq!(address(43, own).0.unwrap(), "");
        assert_eq!(address(44, own).0.unwrap(), "02:00:00:00:00:02");
        let both = own.replace("\"Image\":\"x\"", "\"Image\":\"x\",\"MacAddress\":\"02:00:00:00:00:01\"");
        assert!(fitted(44, &both).unwrap_err().starts_with("the container-wide MAC address must match"));
    }

    #[test]
    fn several_networks_came_with_1_44_and_their_priorities_with_1_48() {
        let body = r#"{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"a":{"GwPriority":5},"b":{}}}}"#;
        assert_eq!(
            fitted(43, body).unwrap_err(),
            "Container cannot be created with multiple network endpoints: a, b"
        );
        let priority = |minor| {
            fitted(minor, body).unwrap().0.networking_config.endpoints_config.unwrap()["a"].gw_priority
        };
        assert_eq!((priority(47), priority(48)), (0, 5));
    }

    #[test]
    fn an_empty_list_of_bindings_is_any_port_up_to_1_52() {
        let body = r#"{"Image":"x","HostConfig":{"PortBindings":{"80/tcp":[],"81/tcp":[{"HostPort":"9"}]}}}"#;
        let ports = |minor| {
            let (request, warnings) = fitted(minor, body).unwrap();
            let ports = request.host_config.port_bindings.unwrap();
            (ports.get("80/tcp").cloned().flatten(), ports.len(), warnings.len())
        };
        assert_eq!(ports(51), (Some(vec![PortBinding::default()]), 2, 0));
        assert_eq!(ports(52), (Some(vec![PortBinding::default()]), 2, 1));
        assert_eq!(ports(53), (None, 1, 0));
    }

    #[test]
    fn an_update_could_not_change_the_limit_of_processes_before_1_40() {
        let limit = |minor| {
            let mut request = UpdateRequest { pids_limit: Some(3), ..UpdateRequest::default() };
            update(at(minor), &mut request);
            request.pids_limit
        };
        assert_eq!((limit(39), limit(40)), (None, Some(3)));
    }
}
