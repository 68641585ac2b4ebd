// Stands in for XLA: loads the compiled library of a wheel, asks each function that argv names for its FFI version, and
// packs the signs of random numbers by recu_pack. Usage:
// call_kernels LIBRARY FUNCTION...

// It is C, so that zig need not compile its C++ library for it.

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

enum { kRows = 7, kChannels = 150, kWords = (kChannels + 63) / 64 };

static _Noreturn void Fail(const char* what, const char* name) {
  fprintf(stderr, "%s %s\n", what, name);
  exit(1);
}

static XLA_FFI_Error* CreateError(XLA_FFI_Error_Create_Args* args) { Fail("the kernels report:", args->message); }
static XLA_FFI_Error* CountThreads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = 1;
  return NULL;
}

static XLA_FFI_Api api = {.struct_size = XLA_FFI_Api_STRUCT_SIZE,
                          .api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, NULL, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR},
                          .XLA_FFI_Error_Create = CreateError,
                          .XLA_FFI_ThreadPool_NumThreads = CountThreads};

static XLA_FFI_CallFrame MakeFrame(void) {
  XLA_FFI_CallFrame frame = {.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE,
                             .api = &api,
                             .stage = XLA_FFI_ExecutionStage_EXECUTE,
                             .args = {.struct_size = XLA_FFI_Args_STRUCT_SIZE},
                             .rets = {.struct_size = XLA_FFI_Rets_STRUCT_SIZE},
                             .attrs = {.struct_size = XLA_FFI_Attrs_STRUCT_SIZE}};
  return frame;
}

static void* Find(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == NULL) Fail("the library does not show", name);
  return found;
}

// Returns the version of the headers with which the function was built.
static XLA_FFI_Api_Version VersionOf(XLA_FFI_Handler* handler, const char* name) {
  XLA_FFI_Metadata metadata = {.struct_size = XLA_FFI_Metadata_STRUCT_SIZE,
                               .api_version = {.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE}};
  XLA_FFI_Metadata_Extension extension = {.metadata = &metadata};
  extension.extension_base.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE;
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  XLA_FFI_CallFrame frame = MakeFrame();
  frame.extension_start = &extension.extension_base;
  if (handler(&frame) != NULL) Fail("no version is told by", name);
  return metadata.api_version;
}

// Packs rows of random numbers by the handler, and compares each bit with the number's sign.
static void CheckPack(XLA_FFI_Handler* pack, const char* isa) {
  static float x[kRows * kChannels];
  static uint64_t words[kRows * kWords];
  for (int i = 0; i < kRows * kChannels; ++i) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  x[3] = 0.f;
  memset(words, 0, sizeof(words));

  int64_t x_dims[] = {kRows, kChannels}, none_dims[] = {0}, word_dims[] = {kRows, 2 * kWords}, channels = kChannels;
  XLA_FFI_Buffer in = {XLA_FFI_Buffer_STRUCT_SIZE, NULL, XLA_FFI_DataType_F32, x, 2, x_dims};
  XLA_FFI_Buffer norm = {XLA_FFI_Buffer_STRUCT_SIZE, NULL, XLA_FFI_DataType_F32, x, 1, none_dims};
  XLA_FFI_Buffer out = {XLA_FFI_Buffer_STRUCT_SIZE, NULL, XLA_FFI_DataType_U32, words, 2, word_dims};
  XLA_FFI_ArgType arg_types[] = {XLA_FFI_ArgType_BUFFER, XLA_FFI_ArgType_BUFFER};
  XLA_FFI_RetType ret_types[] = {XLA_FFI_RetType_BUFFER};
  void *args[] = {&in, &norm}, *rets[] = {&out};
  XLA_FFI_ByteSpan channels_name = {"channels", 8}, isa_name = {"isa", 3}, isa_value = {isa, strlen(isa)};
  XLA_FFI_Scalar channels_value = {XLA_FFI_DataType_S64, &channels};
  XLA_FFI_AttrType attr_types[] = {XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_STRING};
  XLA_FFI_ByteSpan* names[] = {&channels_name, &isa_name};
  void* attrs[] = {&channels_value, &isa_value};

  XLA_FFI_CallFrame frame = MakeFrame();
  frame.args = (XLA_FFI_Args){XLA_FFI_Args_STRUCT_SIZE, NULL, 2, arg_types, args};
  frame.rets = (XLA_FFI_Rets){XLA_FFI_Rets_STRUCT_SIZE, NULL, 1, ret_types, rets};
  frame.attrs = (XLA_FFI_Attrs){XLA_FFI_Attrs_STRUCT_SIZE, NULL, 2, attr_types, names, attrs};
  if (pack(&frame) != NULL) Fail("recu_pack reports an error by", isa);
  for (int i = 0; i < kRows * kChannels; ++i) {
    const int row = i / kChannels, c = i % kChannels;
    const int bit = words[row * kWords + c / 64] >> c % 64 & 1;
    if (bit != (x[i] >= 0)) Fail("recu_pack gives a wrong sign by", isa);
  }
}

int main(int argc, char** argv) {
  if (argc < 3) Fail("call_kernels LIBRARY", "FUNCTION...");
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) Fail("the library does not load:", dlerror());
  XLA_FFI_Api_Version version = VersionOf((XLA_FFI_Handler*)Find(library, argv[2]), argv[2]);
  for (int i = 3; i < argc; ++i) {
    XLA_FFI_Api_Version other = VersionOf((XLA_FFI_Handler*)Find(library, argv[i]), argv[i]);
    if (other.minor_version != version.minor_version || other.major_version != version.major_version) {
      Fail("another version than that of the first function has", argv[i]);
    }
  }
  const char* isas = ((const char* (*)(void))Find(library, "recu_isas"))();
  XLA_FFI_Handler* pack = (XLA_FFI_Handler*)Find(library, "recu_pack");
  char* names = strdup(isas);
  for (char* name = strtok(names, " "); name != NULL; name = strtok(NULL, " ")) CheckPack(pack, name);
  free(names);
  printf("FFI %d.%d, %d functions, %s\n", version.major_version, version.minor_version, argc - 2, isas);
  return 0;
}
