// Run AOTInductor packages (compiled code) with libtorch.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include "torch_tensor.h"

namespace detexport {

// Check that the package's code is compiled for the CPU, and that this CPU has its instruction set.
void require_runnable(const Artifact& artifact) {
    if (artifact.device != "cpu")
        throw Error("this program runs on the CPU",
                    {"code compiled for '" + artifact.device + "'", "code compiled for 'cpu'",
                     "convert the ExportedProgram with device=cpu"});
    const bool fits = artifact.instruction_set == "x86-64" ||
                      (artifact.instruction_set == "x86-64-v3" && __builtin_cpu_supports("x86-64-v3"));
    if (!fits)
        throw Error("the package's code cannot run on this CPU",
                    {"code compiled for '" + artifact.instruction_set + "'", "an instruction set of this CPU",
                     "convert the ExportedProgram with instruction_set=x86-64"});
}

Session open_aot_inductor(const Artifact& artifact, const Options& options) {
    require_runnable(artifact);
    load_torchvision_operators();
    if (options.threads) at::set_num_threads(options.threads);
    const auto package = std::make_shared<torch::inductor::AOTIModelPackageLoader>(artifact.main_file);
    return [package, contract = artifact.contract](const Given& given) {
        const c10::InferenceMode guard;
        std::vector<Tensor> outputs;
        for (const torch::Tensor& output : package->run(to_torch(given, contract)))
            outputs.push_back(from_torch(output));
        return outputs;
    };
}

}  // namespace detexport

int main(int argc, char** argv) {
    return detexport::run_program(argc, argv, "AOTInductor package", detexport::open_aot_inductor);
}
