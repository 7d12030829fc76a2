// An AOTInductor package: compiled code, run by libtorch.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include "torch_tensor.h"

namespace detexport {

Session open_aot_inductor(const Artifact& artifact, const Options& options) {
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
