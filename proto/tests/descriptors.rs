//! Compares the compiled API with `api.txt`, a list of everything in it that a reader can check
//! against etcd's own documentation.

use std::collections::BTreeSet;

use etcd_proxy_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

#[test]
fn api_is_as_listed() {
    let listed: Vec<&str> = API
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert!(
        listed.is_sorted_by(|a, b| a < b),
        "the list is sorted and names nothing twice"
    );

    let listed: BTreeSet<String> = listed.into_iter().map(str::to_owned).collect();
    let compiled = compiled_api();
    let lost: Vec<_> = listed.difference(&compiled).collect();
    let added: Vec<_> = compiled.difference(&listed).collect();
    assert!(
        lost.is_empty() && added.is_empty(),
        "only in api.txt: {lost:#?}\nonly in the .proto files: {added:#?}"
    );
}

/// JSON gateways and logs use these names, and protobuf derives them from the field names.
#[test]
fn json_names_follow_the_field_names() {
    let set = descriptors();
    let field = |message: &str, number: i32| -> FieldDescriptorProto {
        set.file
            .iter()
            .flat_map(|file| &file.message_type)
            .find(|m| m.name() == message)
            .and_then(|m| m.field.iter().find(|f| f.number() == number))
            .cloned()
            .unwrap_or_else(|| panic!("{message} has a field {number}"))
    };
    assert_eq!(field("LeaseGrantRequest", 2).json_name(), "ID");
    assert_eq!(field("LeaseTimeToLiveResponse", 4).json_name(), "grantedTTL");
    assert_eq!(field("StatusResponse", 9).json_name(), "dbSizeInUse");
    assert_eq!(field("RangeRequest", 2).json_name(), "rangeEnd");
}

/// Every file is proto3: there, absent and zero are the same for scalars, and lists of numbers are
/// packed.
#[test]
fn all_files_are_proto3() {
    let set = descriptors();
    assert!(!set.file.is_empty());
    for file in &set.file {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
    }
}

fn compiled_api() -> BTreeSet<String> {
    let mut api = BTreeSet::new();
    for file in descriptors().file {
        let package = file.package().to_owned();
        for service in &file.service {
            list_service(&package, service, &mut api);
        }
        for message in &file.message_type {
            list_message(&package, message, &mut api);
        }
        for enumeration in &file.enum_type {
            list_enum(&package, enumeration, &mut api);
        }
    }
    api
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("build.rs wrote it from valid files")
}

fn list_service(package: &str, service: &ServiceDescriptorProto, api: &mut BTreeSet<String>) {
    let stream = |on: bool| if on { "stream " } else { "" };
    for method in &service.method {
        api.insert(format!(
            "rpc /{package}.{}/{} {}{} -> {}{}",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        ));
    }
}

fn list_message(scope: &str, message: &DescriptorProto, api: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    api.insert(format!("message {name}"));
    for field in &message.field {
        let map_entry = message.nested_type.iter().find(|nested| {
            nested.options.as_ref().is_some_and(|o| o.map_entry())
                && field.type_name() == format!(".{name}.{}", nested.name())
        });
        let kind = match map_entry {
            Some(entry) => format!(
                "map<{}, {}>",
                type_name(&entry.field[0]),
                type_name(&entry.field[1])
            ),
            None if field.label() == Label::Repeated => format!("repeated {}", type_name(field)),
            None => type_name(field),
        };
        let oneof = match field.oneof_index {
            Some(index) => {
                let index = usize::try_from(index).expect("an index is not negative");
                format!(" oneof {}", message.oneof_decl[index].name())
            }
            None => String::new(),
        };
        api.insert(format!(
            "field {name} {} {} {kind}{oneof}",
            field.number(),
            field.name()
        ));
    }
    for enumeration in &message.enum_type {
        list_enum(&name, enumeration, api);
    }
    for nested in &message.nested_type {
        if !nested.options.as_ref().is_some_and(|o| o.map_entry()) {
            list_message(&name, nested, api);
        }
    }
}

fn list_enum(scope: &str, enumeration: &EnumDescriptorProto, api: &mut BTreeSet<String>) {
    for value in &enumeration.value {
        api.insert(format!(
            "value {scope}.{} {} {}",
            enumeration.name(),
            value.number(),
            value.name()
        ));
    }
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Bool => "bool".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::String => "string".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        Type::Enum | Type::Message => field.type_name().trim_start_matches('.').to_owned(),
        other => panic!("etcd's API has no {other:?} ({})", field.name()),
    }
}

const API: &str = include_str!("api.txt");
