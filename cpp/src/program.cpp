#include "program.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <new>

#include "image.h"
#include "json.h"
#include "postprocess.h"

namespace detexport {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
    std::filesystem::path artifact, image;
    int repeat = 1;
    Options options;
};

int to_count(const std::string& name, const std::string& text) {
    int value = 0;
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (fault != std::errc() || end != text.data() + text.size() || value < 0)
        throw Error("option " + name + " must be a whole number, 0 or more", {text});
    return value;
}

Arguments read_arguments(int argc, char** argv, bool has_precisions) {
    Arguments arguments;
    std::vector<std::string> paths;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
        if (!name.starts_with("--")) {
            paths.push_back(name);
            continue;
        }
        if (name == "--repeat")
            arguments.repeat = to_count(name, value);
        else if (name == "--threads")
            arguments.options.threads = to_count(name, value);
        else if (has_precisions && name == "--precision" && (value == "f32" || value == "bf16"))
            arguments.options.precision = value;
        else
            throw Error("unknown option",
                        {name + " " + value, std::string("--repeat N, --threads N") +
                                                 (has_precisions ? ", --precision f32|bf16" : "")});
        ++i;
    }
    if (paths.size() != 2)
        throw Error("two paths are required",
                    {std::to_string(paths.size()), std::string(argv[0]) + " ARTIFACT_FOLDER IMAGE.png"});
    arguments.artifact = paths[0];
    arguments.image = paths[1];
    return arguments;
}

double elapsed_ms(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Interpolate linearly between the two nearest sorted values, as numpy.percentile does.
double percentile(const std::vector<double>& sorted, double percent) {
    const double place = percent / 100 * (sorted.size() - 1);
    const size_t low = place, high = std::min(low + 1, sorted.size() - 1);
    return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}

// Measure the latency of `repeat` calls; the caller has warmed the session up with one call.
json measure(const Session& session, const Given& given, int repeat) {
    std::vector<double> durations_ms;
    for (int i = 0; i < repeat; ++i) {
        const Clock::time_point start = Clock::now();
        session(given);
        durations_ms.push_back(elapsed_ms(start));
    }
    std::ranges::sort(durations_ms);
    json latency = {{"runs", repeat}};
    if (repeat)
        latency.update({{"p50_ms", percentile(durations_ms, 50)}, {"p90_ms", percentile(durations_ms, 90)}});
    return latency;
}

// Compare a graph's outputs with its contract before they are read.
void check_outputs(const std::vector<Tensor>& outputs, const Contract& contract) {
    bool fits = outputs.size() == contract.outputs.size();
    for (size_t i = 0; fits && i < outputs.size(); ++i)
        fits = outputs[i].dtype == contract.outputs[i].dtype &&
               outputs[i].shape.size() == contract.outputs[i].rank;
    if (fits) return;
    Facts facts{"", "", "export the model again"};
    for (const Tensor& tensor : outputs)
        facts.got += tensor.dtype + " of rank " + std::to_string(tensor.shape.size()) + " ";
    for (const TensorSpec& spec : contract.outputs)
        facts.expected += spec.name + " " + spec.dtype + " of rank " + std::to_string(spec.rank) + " ";
    throw Error("the graph's outputs do not match its contract", facts);
}

void check_size(Size size, const Artifact& artifact) {
    if (std::min(size.height, size.width) >= artifact.smallest_side &&
        std::max(size.height, size.width) <= artifact.largest_side)
        return;
    throw Error("the image does not fit the graph",
                {std::to_string(size.height) + " x " + std::to_string(size.width) + " px",
                 "sides of " + std::to_string(artifact.smallest_side) + " to " +
                     std::to_string(artifact.largest_side),
                 "resize the image, or export the model for this size"});
}

json run(const Arguments& arguments, const Artifact& artifact, const Image& image, const Open& open) {
    const Contract& contract = artifact.contract;
    const Size size = resized_size(image.size, contract.min_size, contract.max_size);
    check_size(size, artifact);
    const Given given{resize(image, size), {image.size.height, image.size.width}};

    const Clock::time_point start = Clock::now();
    const Session session = open(artifact, arguments.options);
    const double load_ms = elapsed_ms(start);
    const std::vector<Tensor> outputs = session(given);
    check_outputs(outputs, contract);

    json result = to_json(postprocess(outputs, size, image.size, contract), contract);
    const std::vector<uint8_t>& pixels = given.image.pixels;
    result["input"] = {
        {"height", size.height}, {"width", size.width}, {"sha256", sha256(pixels.data(), pixels.size())}};
    result["latency"] = measure(session, given, arguments.repeat);
    result["latency"]["load_s"] = load_ms / 1000;
    return result;
}

json run(const Arguments& arguments, const std::string& format, const Open& open) {
    const Artifact artifact = read_verified(arguments.artifact, format);
    const Image image = read_png(arguments.image, artifact.contract.channel_order);
    try {
        return run(arguments, artifact, image, open);
    } catch (const std::bad_alloc&) {
        throw too_large(arguments.image, image.size);
    }
}

}  // namespace

int run_program(int argc, char** argv, const std::string& format, const Open& open) {
    try {
        std::cout << run(read_arguments(argc, argv, format == "OpenVINO IR"), format, open).dump()
                  << std::endl;
        return std::cout.good() ? 0 : 1;
    } catch (const std::exception& error) {
        const std::string text = error.what();
        // libtorch appends a stack trace to its messages.
        std::cerr << "error: " << text.substr(0, text.find("\nException raised from")) << std::endl;
        return 1;
    }
}

}  // namespace detexport
