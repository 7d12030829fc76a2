// The inputs and outputs of a graph.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "error.h"

namespace detexport {

// Height and width in px.
struct Size {
    int64_t height = 0, width = 0;
    bool operator==(const Size&) const = default;
};

// uint8 (3, height, width), channels in the contract's order.
struct Image {
    Size size;
    std::vector<uint8_t> pixels;
};

// All possible inputs of a graph.
struct Given {
    Image image;
    std::array<int64_t, 2> output_size;  // height and width of the output in px
};

// An output of a graph, on the CPU and contiguous; its dtype is numpy's name, as in the contract.
class Tensor {
public:
    Tensor(std::string dtype, std::vector<int64_t> shape, const void* data)
        : dtype(std::move(dtype)), shape(std::move(shape)) {
        int64_t bytes = item_size(this->dtype);
        for (int64_t length : this->shape) bytes *= length;
        data_.resize(bytes);
        if (bytes) std::memcpy(data_.data(), data, bytes);
    }

    int64_t length() const { return shape.at(0); }

    // Return the values of the row `index`.
    template <typename T>
    std::span<const T> row(int64_t index) const {
        const size_t size = length() ? data_.size() / length() / sizeof(T) : 0;
        return values<T>().subspan(index * size, size);
    }

    template <typename T>
    std::span<const T> values() const {
        if (sizeof(T) != item_size(dtype))
            throw std::logic_error("a tensor of " + dtype + " is read as another type");
        return {reinterpret_cast<const T*>(data_.data()), data_.size() / sizeof(T)};
    }

    std::string dtype;
    std::vector<int64_t> shape;

private:
    static int64_t item_size(const std::string& dtype) {
        static const std::map<std::string, int64_t> sizes = {
            {"float32", 4}, {"int64", 8}, {"int32", 4}, {"uint8", 1}, {"bool", 1}};
        const auto found = sizes.find(dtype);
        if (found == sizes.end())
            throw Error("the graph has an output of an unknown dtype",
                        {dtype, "float32, int64, int32, uint8 or bool"});
        return found->second;
    }

    std::vector<char> data_;
};

}  // namespace detexport
