// LayoutTest.cs: the declarations against C. FLASHQLA_LAYOUT names a file in which a C program has written every size, offset and constant;
// tests/abi/symbols.txt has every function.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using Flashqla;

internal static class LayoutTest
{
    // Lines of "struct size", "struct.field offset size" and "constant value".
    private static IEnumerable<string> OfCsharp()
    {
        foreach (var type in typeof(Native).GetNestedTypes().Where(t => t.IsValueType && t != typeof(Native.flashqla_reserved)))
        {
            yield return type.Name + " " + Marshal.SizeOf(type);
            foreach (var field in type.GetFields())
                yield return type.Name + "." + field.Name + " " + Marshal.OffsetOf(type, field.Name).ToInt64() + " " + SizeOf(field);
        }
        foreach (var constant in typeof(Native).GetFields().Where(f => f.IsLiteral && f.Name.StartsWith("FLASHQLA_") && f.Name != "FLASHQLA_VERSION"))
            yield return constant.Name + " " + constant.GetRawConstantValue();
    }

    private static int SizeOf(FieldInfo field)
    {
        var array = (MarshalAsAttribute)Attribute.GetCustomAttribute(field, typeof(MarshalAsAttribute));
        return array != null ? array.SizeConst : Marshal.SizeOf(field.FieldType);
    }

    internal static void SizesOffsetsAndConstantsAreThoseOfC()
    {
        var c = File.ReadAllLines(Environment.GetEnvironmentVariable("FLASHQLA_LAYOUT"));
        var own = OfCsharp().ToList();
        Check.That(c.Length > 150, "the table was not read");
        Check.That(!c.Except(own).Any(), "in C alone: " + string.Join(", ", c.Except(own)));
        Check.That(!own.Except(c).Any(), "in C# alone: " + string.Join(", ", own.Except(c)));
    }

    internal static void EveryFunctionIsDeclared()
    {
        var declared = typeof(Native).GetMethods(BindingFlags.Public | BindingFlags.Static).Select(m => m.Name).OrderBy(n => n, StringComparer.Ordinal);
        var all = File.ReadAllLines(Path.Combine(Environment.GetEnvironmentVariable("FLASHQLA_ABI"), "symbols.txt"));
        Check.That(declared.SequenceEqual(all.OrderBy(n => n, StringComparer.Ordinal)), "functions: " + string.Join(" ", declared));
        // The initialisers write all of the struct: with a wrong size they would not say OK, nor leave struct_size as it is here.
        Native.flashqla_config config;
        Native.flashqla_sequences sequences;
        Native.flashqla_state state;
        Native.flashqla_forward_args forward;
        Native.flashqla_backward_args backward;
        Check.That(Native.flashqla_config_init(out config, Size(typeof(Native.flashqla_config))) == 0 && config.device == Handle.Best, "config");
        Check.That(Native.flashqla_sequences_init(out sequences, Size(typeof(Native.flashqla_sequences))) == 0, "sequences");
        Check.That(Native.flashqla_state_init(out state, Size(typeof(Native.flashqla_state))) == 0 && state.struct_size == 128, "state");
        Check.That(Native.flashqla_forward_args_init(out forward, Size(typeof(Native.flashqla_forward_args))) == 0, "forward args");
        Check.That(Native.flashqla_backward_args_init(out backward, Size(typeof(Native.flashqla_backward_args))) == 0, "backward args");
        Check.That(backward.struct_size == 976, "struct_size of backward args");
        Check.That(Native.flashqla_last_error_copy(null, UIntPtr.Zero).ToUInt64() >= 1, "last_error_copy");
    }

    private static UIntPtr Size(Type type)
    {
        return new UIntPtr((uint)Marshal.SizeOf(type));
    }
}
