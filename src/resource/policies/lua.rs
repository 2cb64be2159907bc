//! `lua`: the scripts of every policy in one filter. A route names its script.
//!
//! Envoy runs a script when it loads the filter. Each change of routes would load the filters of a slot anew; a filter
//! by ECDS is loaded when a script changes, and a script that cannot be loaded keeps no route from changing.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{Lua as LuaFilter, LuaPerRoute, lua_per_route};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::entry;
use crate::document::policy::lua::Lua;
use crate::proto::message::{append, boolean};
use crate::proto::structs;

/// The number of `Lua.source_codes`.
const SOURCES: u32 = 2;
/// The number of `LuaPerRoute.filter_context`.
const CONTEXT: u32 = 4;

/// The filter with these scripts, by name. A map of the generated type has no order, so it is put together here.
pub(super) fn filter(policies: &BTreeMap<String, &Lua>) -> Any {
    let mut value = Vec::new();
    for (name, lua) in policies {
        let source = DataSource {
            specifier: Some(data_source::Specifier::InlineString(lua.source.clone())),
            ..DataSource::default()
        };
        append(&mut value, SOURCES, &entry(name, &source));
    }
    // No policy chooses another route.
    let settings = LuaFilter {
        clear_route_cache: Some(boolean(false)),
        ..LuaFilter::default()
    };
    value.extend(settings.encode_to_vec());
    Any {
        type_url: LuaFilter::type_url(),
        value,
    }
}

/// The message with which a route runs a script.
pub(super) fn for_route(lua: &Lua, name: &str) -> Any {
    let route = LuaPerRoute {
        r#override: Some(lua_per_route::Override::Name(name.to_owned())),
        ..LuaPerRoute::default()
    };
    let mut value = route.encode_to_vec();
    if !lua.context.is_empty() {
        let field = |(key, text): (&String, &String)| {
            let value = structs::Value {
                kind: Some(structs::Kind::String(text.clone())),
            };
            (key.clone(), value)
        };
        let context = structs::Struct {
            fields: lua.context.iter().map(field).collect(),
        };
        append(&mut value, CONTEXT, &context.encode_to_vec());
    }
    Any {
        type_url: LuaPerRoute::type_url(),
        value,
    }
}
