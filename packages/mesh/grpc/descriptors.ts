import { create, createFileRegistry, type DescService, type MessageInitShape } from '@bufbuild/protobuf';
import {
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  type FieldDescriptorProtoSchema,
  FileDescriptorProtoSchema,
} from '@bufbuild/protobuf/wkt';

type FieldInit = MessageInitShape<typeof FieldDescriptorProtoSchema>;
type FileInit = MessageInitShape<typeof FileDescriptorProtoSchema>;

/** `string`, `bytes`, `int32`, or the full name of a message or enum of the same file with a leading dot. */
export type FieldType = 'string' | 'bytes' | 'int32' | `.${string}`;

const SCALARS: Readonly<Record<string, FieldDescriptorProto_Type>> = {
  string: FieldDescriptorProto_Type.STRING,
  bytes: FieldDescriptorProto_Type.BYTES,
  int32: FieldDescriptorProto_Type.INT32,
};

/** A field of a message; `options` may make it repeated, an enum, or a member of the message's only oneof. */
export function field(
  name: string,
  number: number,
  type: FieldType,
  options: { repeated?: boolean; isEnum?: boolean; inOneof?: boolean } = {},
): FieldInit {
  const { REPEATED, OPTIONAL } = FieldDescriptorProto_Label;
  const jsonName = name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const base = { name, jsonName, number, label: options.repeated ? REPEATED : OPTIONAL };
  const scalar = SCALARS[type];
  const typed =
    scalar === undefined
      ? { type: options.isEnum ? FieldDescriptorProto_Type.ENUM : FieldDescriptorProto_Type.MESSAGE, typeName: type }
      : { type: scalar };
  return { ...base, ...typed, ...(options.inOneof ? { oneofIndex: 0 } : {}) };
}

/** The descriptor of the only service of a proto3 file that is written down here, for want of a .proto file of our own. */
export function serviceOf(file: FileInit): DescService {
  const registry = createFileRegistry(
    create(FileDescriptorProtoSchema, { ...file, syntax: 'proto3' }),
    () => undefined,
  );
  return registry.getService(`${file.package}.${file.service?.[0]?.name}`) as DescService;
}
