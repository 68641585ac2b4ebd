// Stands in for XLA: loads the compiled library of a wheel, asks each function that argv names for its FFI version, and
// packs the signs of random numbers by recu_pack. Usage: call_kernels LIBRARY FUNCTION...

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

XLA_FFI_Error* CreateError(XLA_FFI_Error_Create_Args* args) { Fail(args->message); }
XLA_FFI_Error* CountThreads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = 1;
  return nullptr;
}

XLA_FFI_Api MakeApi() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = CreateError;
  api.XLA_FFI_ThreadPool_NumThreads = CountThreads;
  return api;
}

XLA_FFI_CallFrame MakeFrame(const XLA_FFI_Api* api) {
  XLA_FFI_CallFrame frame = {};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = api;
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args.struct_size = XLA_FFI_Args_STRUCT_SIZE;
  frame.rets.struct_size = XLA_FFI_Rets_STRUCT_SIZE;
  frame.attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
  return frame;
}

// Returns the version of the headers with which the function was built, as "0.1".
std::string VersionOf(XLA_FFI_Handler* handler) {
  const XLA_FFI_Api api = MakeApi();
  XLA_FFI_Metadata metadata = {};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  metadata.api_version.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension = {};
  extension.extension_base.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE;
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  extension.metadata = &metadata;
  XLA_FFI_CallFrame frame = MakeFrame(&api);
  frame.extension_start = &extension.extension_base;
  if (handler(&frame) != nullptr) Fail("a function does not tell its version");
  return std::to_string(metadata.api_version.major_version) + "." +
         std::to_string(metadata.api_version.minor_version);
}

// Packs rows of random numbers by the handler, and compares each bit with the number's sign.
void CheckPack(XLA_FFI_Handler* pack, const std::string& isa) {
  constexpr int64_t kRows = 7, kChannels = 150, kWords = (kChannels + 63) / 64;
  std::vector<float> x(kRows * kChannels), none;
  for (float& number : x) number = static_cast<float>(std::rand()) / RAND_MAX - 0.5f;
  x[3] = 0.f;
  std::vector<uint64_t> words(kRows * kWords);

  const XLA_FFI_Api api = MakeApi();
  int64_t x_dims[] = {kRows, kChannels}, none_dims[] = {0}, word_dims[] = {kRows, 2 * kWords}, channels = kChannels;
  XLA_FFI_Buffer in = {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_F32, x.data(), 2, x_dims};
  XLA_FFI_Buffer norm = {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_F32, none.data(), 1, none_dims};
  XLA_FFI_Buffer out = {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_U32, words.data(), 2, word_dims};
  XLA_FFI_ArgType arg_types[] = {XLA_FFI_ArgType_BUFFER, XLA_FFI_ArgType_BUFFER};
  XLA_FFI_RetType ret_types[] = {XLA_FFI_RetType_BUFFER};
  void *args[] = {&in, &norm}, *rets[] = {&out};
  XLA_FFI_ByteSpan channels_name = {"channels", 8}, isa_name = {"isa", 3}, isa_value = {isa.data(), isa.size()};
  XLA_FFI_Scalar channels_value = {XLA_FFI_DataType_S64, &channels};
  XLA_FFI_AttrType attr_types[] = {XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_STRING};
  XLA_FFI_ByteSpan* names[] = {&channels_name, &isa_name};
  void* attrs[] = {&channels_value, &isa_value};

  XLA_FFI_CallFrame frame = MakeFrame(&api);
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, 2, arg_types, args};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, ret_types, rets};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 2, attr_types, names, attrs};
  if (pack(&frame) != nullptr) Fail("recu_pack reports an error");
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t c = 0; c < kChannels; ++c) {
      const bool bit = words[row * kWords + c / 64] >> c % 64 & 1;
      if (bit != (x[row * kChannels + c] >= 0)) Fail("recu_pack by " + isa + " gives a wrong sign");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (library == nullptr) Fail(argc > 1 ? dlerror() : "call_kernels LIBRARY FUNCTION...");
  std::string version;
  for (int i = 2; i < argc; ++i) {
    const auto handler = reinterpret_cast<XLA_FFI_Handler*>(dlsym(library, argv[i]));
    if (handler == nullptr) Fail(dlerror());
    const std::string found = VersionOf(handler);
    if (!version.empty() && found != version) Fail("the functions have different versions");
    version = found;
  }
  const auto isas = reinterpret_cast<const char* (*)()>(dlsym(library, "recu_isas"));
  if (isas == nullptr) Fail(dlerror());
  const auto pack = reinterpret_cast<XLA_FFI_Handler*>(dlsym(library, "recu_pack"));
  const std::string names = isas();
  for (size_t from = 0, to; from < names.size(); from = to + 1) {
    to = std::min(names.find(' ', from), names.size());
    CheckPack(pack, names.substr(from, to - from));
  }
  std::printf("FFI %s, %d functions, %s\n", version.c_str(), argc - 2, names.c_str());
}
