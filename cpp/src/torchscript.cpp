// TorchScript by libtorch: one image in and a tuple of tensors out, or a list of images in and tensors by name out.
#include "torch_tensor.h"

namespace detexport {

Session open_torchscript(const Artifact& artifact, const Options& options) {
    load_torchvision_operators();
    if (options.threads) at::set_num_threads(options.threads);
    torch::jit::Module module = torch::jit::load(artifact.main_file);
    module.eval();
    return [artifact, module](const Image& image) mutable {
        const c10::InferenceMode guard;
        const torch::Tensor input = to_torch(image);
        std::vector<Tensor> outputs;
        if (artifact.batch == "any") {
            const auto fields = module.forward({c10::List<torch::Tensor>({input})}).toList().get(0).toGenericDict();
            for (const TensorSpec& spec : artifact.contract.outputs)
                outputs.push_back(from_torch(fields.at(spec.name).toTensor()));
        } else {
            const c10::IValue result = module.forward({input});
            for (const c10::IValue& output : result.toTupleRef().elements())
                outputs.push_back(from_torch(output.toTensor()));
        }
        return outputs;
    };
}

}  // namespace detexport

int main(int argc, char** argv) { return detexport::run_program(argc, argv, "TorchScript", detexport::open_torchscript); }
