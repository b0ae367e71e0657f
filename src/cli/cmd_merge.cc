// rhetor merge: an adapter and its base become one model folder.
#include "base/error.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "models/lora.h"

namespace rhetor {

int cmd_merge(int argc, const char* const* argv) {
  std::string path, output, base;
  Args args("merge", "Writes the model that an adapter makes of its base: a whole model folder, free of both.",
            "  rhetor merge runs/adapter -o runs/merged\n"
            "  rhetor merge adapter-from-elsewhere --base runs/gpt -o runs/merged");
  args.positional("adapter", path, "adapter folder (adapter_config.json, adapter_model.safetensors)")
      .option("-o,--output", output, "model folder to write")
      .option("--base", base, "the model it adapts; default: the one adapter_config.json names");
  if (!args.parse(argc, argv)) return 0;
  if (output.empty()) fail("rhetor merge needs an output folder: -o FOLDER");
  if (!is_adapter_folder(path)) fail(ErrorKind::not_found, "'{}' is no adapter folder: it holds no adapter_config.json", path);
  std::error_code ignored;
  for (const std::string& source : {path, base})
    if (!source.empty() && std::filesystem::equivalent(source, output, ignored)) fail("the output folder '{}' is what is merged; name another", output);
  const ModelPtr model = load_merged(path, base.empty() ? nullptr : load_model(base));
  save_model(output, *model);
  fmt::print("{}: {} parameters, {}\n", output, model->config.parameters(),
             human_bytes(std::filesystem::file_size(std::filesystem::path(output) / "model.safetensors")));
  return 0;
}

}  // namespace rhetor
