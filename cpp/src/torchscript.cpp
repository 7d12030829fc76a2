// Run TorchScript with libtorch. Traced: an image in, a tuple of tensors out. Scripted: a list of images in,
// a dict of tensors per image out.
#include "torch_tensor.h"

namespace detexport {

Session open_torchscript(const Artifact& artifact, const Options& options) {
    load_torchvision_operators();
    if (options.threads) at::set_num_threads(options.threads);
    torch::jit::Module module = torch::jit::load(artifact.main_file);
    module.eval();
    return [artifact, module](const Given& given) mutable {
        const c10::InferenceMode guard;
        const bool takes_lists = artifact.batch == "any";
        std::vector<c10::IValue> inputs;
        for (const torch::Tensor& input : to_torch(given, artifact.contract))
            inputs.push_back(takes_lists ? c10::IValue(c10::List<torch::Tensor>({input}))
                                         : c10::IValue(input));
        const c10::IValue result = module.forward(inputs);

        std::vector<Tensor> outputs;
        if (takes_lists) {
            const auto fields = result.toList().get(0).toGenericDict();
            for (const TensorSpec& spec : artifact.contract.outputs)
                outputs.push_back(from_torch(fields.at(spec.name).toTensor()));
        } else {
            for (const c10::IValue& output : result.toTupleRef().elements())
                outputs.push_back(from_torch(output.toTensor()));
        }
        return outputs;
    };
}

}  // namespace detexport

int main(int argc, char** argv) {
    return detexport::run_program(argc, argv, "TorchScript", detexport::open_torchscript);
}
